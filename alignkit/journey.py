"""One `train`, from what was typed to a published run: compose, check, open, run, publish.

The path is a straight line, shared by the command line and by Python. Nothing here knows a stage by name: the recipe's
`stage` is a folder under ``alignkit/stages``, and what counts as an input is whatever section of the recipe is a
``Model`` or a ``Data``.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignkit import ranks
from alignkit.checking import room_faults, sections
from alignkit.config.compose import Composed, compose
from alignkit.config.key_values import decides, decisive
from alignkit.config.recipe import GradientRecipe, StageRecipe
from alignkit.config.sections import Data, Evaluation, Model
from alignkit.console import log
from alignkit.console.libraries import kept_quiet
from alignkit.console.streams import stdout_to_stderr
from alignkit.errors import AlignkitError, Fault, Interrupted, RequestError
from alignkit.runs.directory import RunDirectory, local_parent, open_run
from alignkit.runs.following import FollowedRun
from alignkit.runs.key import run_key
from alignkit.runs.manifest import Manifest, Parent, publish, read_manifest, unpublish
from alignkit.runs.outcome import Outcome
from alignkit.runs.spool import STDIN, keep_in_run, spool_stdin


@dataclass(kw_only=True)
class Result:
    """What a `train` gives: the path that is printed, and the rest of what `--json` shows."""

    path: Path
    key: str
    run: Path
    metrics: dict[str, Any] = field(default_factory=dict)
    reused: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "path": str(self.path),
            "key": self.key,
            "run": str(self.run),
            "reused": self.reused,
            "metrics": self.metrics,
        }


@dataclass(frozen=True)
class Inputs:
    """The identity of everything a run is made from."""

    digests: dict[str, str]
    parents: tuple[Parent, ...]
    reusable: bool


def check(
    name: str, overrides: Sequence[str], *, recipes: Sequence[Path] = (), allow_code: bool = False
) -> tuple[Composed, list[Fault]]:
    """The composed recipe and every fault that can be known without torch, without a model and without a network."""
    composed = compose(name, overrides, recipes=recipes)
    return composed, [*composed.faults, *room_faults(composed, allow_code)]


def train(
    name: str,
    overrides: Sequence[str] = (),
    *,
    fresh: bool = False,
    recipes: Sequence[Path] = (),
    verbosity: int = log.NORMAL,
    allow_code: bool = False,
    composed: Composed | None = None,
) -> Result:
    """Run a recipe, or return the complete run that already answers it.

    ``allow_code``: whether functions that the recipe names may be run; no recipe can say so of itself. ``composed``:
    the recipe, where somebody has composed it already.

    Raises:
        RequestError: every fault of the request at once.
        RunError, NumericsError, Interrupted: as their texts say; the run directory holds the checkpoints.
    """
    log.set_verbosity(verbosity if ranks.is_first() else log.SILENT)
    with stdout_to_stderr(), kept_quiet():
        found: Begun | Result | None = None
        if ranks.is_first():
            composed = composed or compose(name, overrides, recipes=recipes)
            found = begin(composed, fresh=fresh, allow_code=allow_code)
        if ranks.world() > 1:
            return _alongside(found)
        assert found is not None
        return found if isinstance(found, Result) else _locked(found.run, found.composed, found.inputs)


def _alongside(found: Begun | Result | None) -> Result:
    """The same for one of several processes that a launcher started by hand."""
    ranks.meet()
    answer = ranks.from_first(lambda: found if isinstance(found, Result) else None)
    return join(found if isinstance(found, Begun) else None) if answer is None else answer


def _opened(composed: Composed, fresh: bool, allow_code: bool) -> tuple[RunDirectory, Inputs]:
    """The request's run directory, and what it is made from. Raises RequestError for what is wrong beyond the recipe's
    own values."""
    recipe = composed.recipe
    spooled = _spool(composed)
    if faults := list(room_faults(composed, allow_code)):
        raise RequestError(faults)
    inputs = identify(recipe)
    key = run_key(recipe.stage, recipe.semantics, decisive(recipe), inputs.digests)
    run = open_run(recipe.run.root, recipe.stage, key, fresh=fresh)
    for data, file in spooled.items():
        _rename(composed, data, str(keep_in_run(file, run.path)))
    return run, inputs


def _locked(run: RunDirectory, composed: Composed, inputs: Inputs) -> Result:
    """Do what is left of a run that nobody else works on."""
    with run.lock():
        if run.is_complete:
            stale = _stale_parts(run, composed)
            if not stale:
                return _reuse(run)
            log.say(f"{' and '.join(stale)} changed: only that part of {run.path} is done again")
            unpublish(run)
        return _execute(run, composed, inputs)


@dataclass(frozen=True)
class Begun:
    """A request whose run directory stands: what the processes of a run are given, so that none of them composes or
    reads inputs again."""

    composed: Composed
    run: RunDirectory
    inputs: Inputs


def begin(composed: Composed, *, fresh: bool, allow_code: bool) -> Begun | Result:
    """What `train` does before the work: a run to be worked on, or the result of one that answers already."""
    if composed.faults:
        raise RequestError([*composed.faults, *room_faults(composed, allow_code)])
    run, inputs = _opened(composed, fresh, allow_code)
    if run.is_complete and not _stale_parts(run, composed):
        return _reuse(run)
    return Begun(composed, run, inputs)


def join(begun: Begun | None) -> Result:
    """One of several processes that work on a run together. ``begun``: what rank 0 has; the others get it from there.

    Rank 0 holds the lock, writes and prints; the others follow it until the training is done.
    """
    shared = ranks.from_first(lambda: begun)
    assert shared is not None
    composed, run = shared.composed, shared.run
    try:
        if ranks.is_first():
            return _locked(run, composed, shared.inputs)
        runner = importlib.import_module(f"alignkit.stages.{composed.recipe.stage.replace('-', '_')}.run")
        outcome: Outcome = runner.run(composed.recipe, FollowedRun.of(run))
        return Result(path=outcome.result, key=run.key, run=run.path)
    finally:
        ranks.reunite()


def finished(begun: Begun) -> Result:
    """The result of a run that other processes have just completed. Raises RunError when they have not."""
    manifest = read_manifest(begun.run.path)
    path = begun.run.path
    return Result(path=path / manifest.result, key=begun.run.key, run=path, metrics=manifest.metrics)


# --- what comes on stdin ---------------------------------------------------------------------------------------------


def _spool(composed: Composed) -> dict[str, Path]:
    """`data=-`: what comes on stdin goes into a file, and the recipe names that. Section to file."""
    spooled = {}
    for where, section in sections(composed.recipe):
        if isinstance(section, Data) and section.name == STDIN:
            spooled[where] = spool_stdin(composed.recipe.run.root, f"{where}.name")
            _rename(composed, where, str(spooled[where]))
    return spooled


def _rename(composed: Composed, where: str, name: str) -> None:
    """Let a data section of the recipe read another file."""
    section = dict(sections(composed.recipe))[where]
    section.name = name
    values = composed.values
    for step in where.split("."):
        values = values[step]
    values["name"] = name


# --- identity -----------------------------------------------------------------------------------------------------


def identify(recipe: StageRecipe) -> Inputs:
    """Digests and parents of every model and data set in a recipe that decides what comes out: what judges answers in
    an evaluation does not."""
    from alignkit.data.fingerprint import content_digest
    from alignkit.models.sources import identity, locate, under
    from alignkit.runs.digests import bytes_digest, file_digest

    digests: dict[str, str] = {}
    parents: list[Parent] = []
    for where, section in sections(recipe):
        if not decides(recipe, where):
            continue
        if isinstance(section, Model):
            try:
                source = locate(section)
                found = identity(source, file_digest)
            except RequestError as error:
                raise RequestError([under(where, fault) for fault in error.faults]) from None
            digests |= {f"{where}.{part}": digest for part, digest in found.items()}
            together = bytes_digest(repr(sorted(found.items())).encode())
            if source.path is not None:
                parents.append(local_parent(where, section.name, source.path, together))
            else:
                parents.append(
                    Parent(
                        role=where,
                        name=section.name,
                        digest=together,
                        hub=source.hub_name,
                        commit=found.get("commit"),
                    )
                )
        elif isinstance(section, Data) and (section.name or section.sources):
            digest = content_digest(section, file_digest)
            digests[where] = digest
            for one in section.parts():
                place = Path(one.name).expanduser()
                if place.exists():
                    parents.append(local_parent(where, one.name, place, digest))
                else:
                    parents.append(Parent(role=where, name=one.name, digest=digest))
    for key, files in recipe.files_read().items():
        digests |= {f"{key}.{file.name}": file_digest(file) for file in files}
    return Inputs(digests, tuple(parents), reusable=all(digests.values()))


# --- running ------------------------------------------------------------------------------------------------------


def _stale_parts(run: RunDirectory, composed: Composed) -> list[str]:
    """Parts of a complete run that were asked for differently this time: `evaluation`, `save`."""
    made = read_manifest(run.path).recipe
    stale = []
    for where, section in sections(composed.recipe):
        if isinstance(section, Evaluation):
            before = made.get(where, {})
            if any(before.get(name) != value for name, value in section.decides().items()):
                stale.append(where)
    if isinstance(composed.recipe, GradientRecipe) and made.get("save", "auto") != composed.recipe.save:
        stale.append("save")
    return stale


def _execute(run: RunDirectory, composed: Composed, inputs: Inputs) -> Result:
    from alignkit.config.showing import show
    from alignkit.runs.versions import environment_text, package_versions

    recipe = composed.recipe
    run.clear_mark("failed")
    begun = run.read_mark("versions")
    if begun is None:
        run.mark("versions", package_versions())
    run.record_parents(inputs.parents)
    run.write("recipe.yaml", show(composed))
    run.write("environment.txt", environment_text())
    with log.log_to(run.log_file):
        log.say(f"run {run.path}")
        if begun is not None:
            _announce_versions("this run was begun with", begun)
        try:
            runner = importlib.import_module(f"alignkit.stages.{recipe.stage.replace('-', '_')}.run")
            outcome: Outcome = runner.run(recipe, run)
        except (KeyboardInterrupt, Interrupted):
            raise
        except AlignkitError as error:
            run.fail(str(error))
            log.record(str(error))
            raise
        except Exception as error:
            run.fail(f"{type(error).__name__}: {error}")
            log.record(traceback.format_exc())
            raise
        manifest = publish(
            run,
            Manifest(
                stage=recipe.stage,
                name=composed.name,
                key=run.key,
                semantics=recipe.semantics,
                seed=recipe.seed,
                parents=inputs.parents,
                recipe=composed.values,
                resolved=outcome.resolved,
                metrics=outcome.metrics,
                versions=package_versions(),
                result=str(outcome.result.relative_to(run.path)),
                reusable=inputs.reusable,
                stopped_by=outcome.stopped_by,
            ),
            outcome.digests,
        )
        _tell(manifest)
    return Result(path=outcome.result, key=run.key, run=run.path, metrics=manifest.metrics)


def _reuse(run: RunDirectory) -> Result:
    manifest = read_manifest(run.path)
    log.say(f"done before: {run.path} (--fresh does it anew, beside it)")
    _announce_versions("made with", manifest.versions)
    _tell(manifest)
    return Result(path=run.path / manifest.result, key=run.key, run=run.path, metrics=manifest.metrics, reused=True)


def _announce_versions(how: str, then: Mapping[str, str]) -> None:
    """One line when the libraries that decide numbers are not the ones a run was made with."""
    from alignkit.runs.versions import TOLD, package_versions, version_changes

    now = package_versions()
    changes = version_changes(
        {name: then[name] for name in TOLD if name in then},
        {name: now[name] for name in TOLD if name in now},
    )
    if changes:
        log.say(f"{how} {'; '.join(changes)}")


def _tell(manifest: Manifest) -> None:
    """The proof of effect, as a table on stderr."""
    from alignkit.evaluation.report import comparison

    for part in comparison(manifest.metrics):
        log.table(part)
