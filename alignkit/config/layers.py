"""Files in, one tree of values out: the part of composition that Hydra does.

Hydra is called through its compose API on a generated primary file that names the recipe, the choices of the command
line and the search path, so the user's directories come first without a plugin, and nothing that a person typed has to
survive Hydra's override grammar. Every file that took part is kept as a layer, for provenance.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alignkit.config import search
from alignkit.config.plain_yaml import check_size, read_text
from alignkit.config.safety import file_faults
from alignkit.config.search import Found
from alignkit.errors import Fault, RequestError

PRIMARY = "alignkit"


@dataclass(frozen=True)
class Layer:
    """What one file says, at the place where it says it."""

    label: str
    """The file as shown to a person."""
    package: str
    """Dotted section that the file fills; empty for a whole recipe."""
    values: dict[str, Any]
    chosen: bool
    """Whether the command line chose it."""


@dataclass(frozen=True)
class Files:
    """The files of a composition, in the order in which later ones win."""

    layers: tuple[Layer, ...]
    choices: dict[str, str | None]
    """Choice of each group that a defaults list names; keys are `group` or `group@section`."""

    def value(self, key: str) -> Any:
        """A top-level value as the files leave it, or None."""
        values = [layer.values[key] for layer in self.layers if not layer.package and key in layer.values]
        return values[-1] if values else None


@contextmanager
def quiet() -> Iterator[None]:
    """Without Hydra's warnings, and with its global state as it was before."""
    from hydra.core.global_hydra import GlobalHydra

    holder = GlobalHydra.instance()
    before = holder.hydra
    holder.clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        GlobalHydra.instance().hydra = before


def read_files(found: Found, chosen: Mapping[str, str | None], named: Collection[str]) -> Files:
    """The files that a recipe is made of. Raises RequestError.

    `chosen` are the command line's choices of groups (None: take the group out), `named` the groups that the recipe's
    own defaults name: theirs are replaced where they stand, others are added at the end.
    """
    from hydra.types import RunMode

    vetted = _vet(found, chosen)
    with _hydra(found, chosen, named) as loader:
        listed = loader.compute_defaults_list(PRIMARY, [], RunMode.RUN)
    layers: list[Layer] = []
    fills = {(f"{group.partition('@')[0]}/{choice}", group.rpartition("@")[2]) for group, choice in chosen.items()}
    for entry in listed.defaults:
        if entry.primary or entry.config_path == "hydra/config" or entry.parent == "hydra/config":
            continue
        located = search.locate(entry.config_path, found.search)
        if located is None or entry.config_path not in vetted:
            raise RequestError(
                Fault(where=found.label, what=f"its defaults name {entry.config_path}, which no recipe may use")
            )
        label = located[1]
        values = {key: value for key, value in vetted[entry.config_path].items() if key != "defaults"}
        package = (entry.package or "").removeprefix("_global_").strip(".")
        layers.append(Layer(label, package, values, (entry.config_path, package) in fills))
    known = {key: value for key, value in listed.overrides.known_choices.items() if not key.startswith("hydra/")}
    return Files(tuple(layers), known)


def merge(found: Found, chosen: Mapping[str, str | None], named: Collection[str]) -> dict[str, Any]:
    """The tree that those files compose to: plain containers, interpolations as they stand. Raises RequestError."""
    from hydra import compose
    from omegaconf import OmegaConf

    with _hydra(found, chosen, named):
        config = compose(PRIMARY)
    tree = OmegaConf.to_container(config, resolve=False)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def read_yaml(file: Path, label: str) -> dict[str, Any]:
    """One file as plain containers; RequestError names the line that cannot be read."""
    from io import StringIO

    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import GrammarParseError

    text = read_text(file, label)
    check_size(text, label)
    try:
        loaded = OmegaConf.load(StringIO(text))
        tree = OmegaConf.to_container(loaded, resolve=False)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f" line {mark.line + 1}" if mark else ""
        problem = _yaml_problem(error.problem or "it is no YAML")
        raise RequestError(Fault(where=f"{label}{line}", what=problem)) from error
    except GrammarParseError as error:
        raise RequestError(
            Fault(where=label, what="holds a ${…} that cannot be read", instead="Write ${section.key}.")
        ) from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RequestError(Fault(where=label, what=f"cannot be read ({reason})", instead="Mend the YAML.")) from error
    if not isinstance(tree, dict):
        raise RequestError(Fault(where=label, what="must hold `key: value` lines", instead="A recipe is a mapping."))
    return {str(key): value for key, value in tree.items()}


def _yaml_problem(problem: str) -> str:
    if "constructor for the tag" in problem:
        tag = problem.split("'")[1] if "'" in problem else ""
        return f"the tag {tag.replace('tag:yaml.org,2002:', '!!')} is not allowed: recipes hold plain values only"
    return f"it is no valid YAML: {problem}"


@contextmanager
def _hydra(found: Found, chosen: Mapping[str, str | None], named: Collection[str]) -> Iterator[Any]:
    """Hydra's loader on a generated primary file; its errors come out as sentences."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    with TemporaryDirectory(prefix="alignkit-") as directory:
        text = _primary(found, chosen, named)
        (Path(directory) / f"{PRIMARY}.yaml").write_text(text, encoding="utf-8")
        with quiet(), initialize_config_dir(version_base="1.3", config_dir=directory, job_name=PRIMARY):
            try:
                yield GlobalHydra.instance().config_loader()
            except RecursionError:
                raise RequestError(
                    Fault(
                        where=found.label,
                        what="its defaults lead back to itself",
                        instead="A recipe extends one of another name; rename this file.",
                    )
                ) from None
            except Exception as error:  # errors of Hydra, OmegaConf and PyYAML, and ValueErrors between them
                raise _translate(error, found) from error


def _primary(found: Found, chosen: Mapping[str, str | None], named: Collection[str]) -> str:
    """The generated primary file: recipe, choices of the command line, search path (JSON is YAML)."""
    added = [{group: choice} for group, choice in chosen.items() if group not in named and choice is not None]
    replaced = [{f"override {group}": choice} for group, choice in chosen.items() if group in named]
    tree = {
        "defaults": [found.name, *added, "_self_", *replaced],
        "hydra": {"searchpath": [f"file://{directory.path}" for directory in found.search]},
    }
    return json.dumps(tree)


def _translate(error: Exception, found: Found) -> RequestError:
    """One of Hydra's or OmegaConf's errors as a sentence about the recipe's files."""
    import re

    text = str(error)
    missing = getattr(error, "missing_cfg_file", None)
    if missing:
        group = str(missing).rpartition("/")[0]
        parent = re.search(r"In '([^']+)'", text)
        located = search.locate(parent.group(1), found.search) if parent else None
        where = located[1] if located else found.label
        names = search.choices(group, found.search) if group else search.recipe_names(found.search)
        there = f"There are: {', '.join(names)}." if names else f"There is no directory {group}/ with recipes either."
        return RequestError(
            Fault(where=where, what=f"its defaults name {missing}, and there is no such file", instead=there)
        )
    twice = re.search(r"Multiple values for ([\w@./-]+)", text)
    if twice:
        group = twice.group(1).rstrip(".")
        return RequestError(
            Fault(
                where=found.label,
                what=f"its defaults choose {group} twice",
                instead=f"Write `- override {group}: NAME` at the end of the defaults.",
            )
        )
    override = re.search(r"Could not override '([^']+)'", text)
    if override:
        return RequestError(
            Fault(
                where=found.label,
                what=f"its defaults override {override.group(1)}, which none of its parents chooses",
                instead=f"Write `- {override.group(1)}: NAME` without override.",
            )
        )
    again = re.search(r"(\S+) appears more than once", text)
    if again:
        return RequestError(Fault(where=found.label, what=f"its defaults name {again.group(1)} more than once"))
    return RequestError(
        Fault(
            where=found.label,
            what="its files cannot be put together (a list of defaults or a section is not in the right form)",
            instead="`defaults:` is a list of `- recipe`, `- group: name` and `- _self_`; sections hold `key: value`.",
        )
    )


def _vet(found: Found, chosen: Mapping[str, str | None]) -> dict[str, dict[str, Any]]:
    """Read the recipe, the choices and all that their defaults name, before Hydra does. Returns what each file says.

    Raises RequestError for the first file that cannot be read or holds what no recipe may hold.
    """
    read: dict[str, dict[str, Any]] = {}
    waiting = [found.name, *(f"{group.partition('@')[0]}/{choice}" for group, choice in chosen.items() if choice)]
    while waiting:
        config = waiting.pop(0)
        located = search.locate(config, found.search)
        if config in read or located is None:
            continue
        if not search.within(located[0], found.search):
            raise RequestError(
                Fault(
                    where=located[1],
                    what="is a link that leads out of its folder",
                    instead="Copy the file there, or give its own folder with --recipes.",
                )
            )
        values = read[config] = read_yaml(*located)
        faults = file_faults(values, located[1])
        if faults:
            raise RequestError(faults)
        folder = config.rpartition("/")[0]
        for name in _defaults(values.get("defaults")):
            waiting.append(name[1:] if name.startswith("/") else f"{folder}/{name}" if folder else name)
    return read


def _defaults(listed: Any) -> Iterator[str]:
    """`lora`, `model/tickets`: what a list of defaults names."""
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, str) and entry != "_self_":
            yield entry.partition("@")[0]
        elif isinstance(entry, dict):
            for group, choice in entry.items():
                for one in choice if isinstance(choice, list) else [choice]:
                    yield f"{str(group).split()[-1].partition('@')[0]}/{one}" if str(group).split() else str(one)
