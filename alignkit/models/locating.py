"""From what a person wrote after `model=` to the one place the weights come from. Nothing here reads weights.

The order is fixed. A name of recipes/model/ was already resolved by the recipe; what arrives here is

1. a file of an installed Python package (`installed_file`), when that package is there;
2. a path: it starts with `./`, `../`, `/` or `~`, ends in a file suffix of weights, or cannot be a hub name;
3. a hub name (`owner/model` or `model`), also written `hub:owner/model`.

`BASE+ADAPTER` puts the adapter in a directory on another base than the one it names; more adapters follow with more +.
A bare name that could be a directory here and a hub name is refused with both spellings.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from alignkit.config.sections import Model
from alignkit.errors import Fault, RequestError
from alignkit.models.jsonfile import read_object

WEIGHT_SUFFIXES = (".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt")
ORIGIN_FILE = "alignkit.json"
"""Beside an adapter: exactly which base it was trained on, where `adapter_config.json` has room for one string only."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?")


@dataclass(frozen=True)
class Source:
    """Where weights come from."""

    kind: Literal["directory", "gguf", "hub"]
    path: Path | None
    """Absolute; None for a hub name."""
    hub_name: str | None
    """The hub name; also set for an installed file that carries a hub model."""
    revision: str | None
    said: str
    """One line for the log: what was taken and why."""
    adapter: bool = False
    """The directory is a PEFT adapter; its base is `parent`."""
    parent: Source | None = None
    run: Path | None = None
    """The run directory it belongs to."""
    installed_file: str | None = None

    @property
    def place(self) -> str:
        """The shortest thing that names it."""
        return str(self.path) if self.path is not None else f"hub:{self.hub_name}"


def locate(section: Model) -> Source:
    """The source that `section` means. Raises RequestError when there is none or more than one."""
    if section.installed_file:
        installed = installed_path(section.installed_file)
        if installed is not None:
            package = section.installed_file.partition("/")[0]
            return Source(
                kind="gguf",
                path=installed,
                hub_name=_hub_name(section.name),
                revision=None,
                said=f"model: {installed.name} of the installed package {package} (it carries {section.name})",
                installed_file=section.installed_file,
            )
    return from_name(section.name, section.revision)


def from_name(name: str, revision: str | None = None, *, where: str = "model.name") -> Source:
    """A path or a hub name to its source."""
    if not name:
        raise RequestError(Fault(where=where, what="no model is given", instead="Write model=NAME or model=./PATH."))
    base, plus, adapter = name.rpartition("+")
    if plus and not Path(name).expanduser().exists():
        return _put_on(base, adapter, revision, where)
    if name.startswith("hub:"):
        return _hub(name.removeprefix("hub:"), revision, where)
    if is_path_spelling(name):
        return _from_path(Path(name).expanduser(), where)
    if not _HUB_NAME.fullmatch(name):
        return _from_path(Path(name), where)
    if Path(name).exists():
        raise RequestError(
            Fault(
                where=where,
                what=f"{name!r} is a path here and could be a hub name",
                instead=f"Write ./{name} for the path, or hub:{name} for the hub.",
            )
        )
    return _hub(name, revision, where)


def is_path_spelling(name: str) -> bool:
    """Whether `name` can only be a path by the way it is written."""
    return name in (".", "..") or name.startswith(("./", "../", "/", "~")) or name.lower().endswith(WEIGHT_SUFFIXES)


def installed_path(installed_file: str) -> Path | None:
    """The file `package/inner/path` of an installed package, without importing the package; None when absent."""
    package, _, inner = installed_file.partition("/")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder, inner).absolute()
        if inner and file.is_file():
            return file
    return None


def _hub_name(name: str) -> str | None:
    bare = name.removeprefix("hub:")
    return bare if not is_path_spelling(bare) and _HUB_NAME.fullmatch(bare) else None


def _hub(name: str, revision: str | None, where: str) -> Source:
    if not _HUB_NAME.fullmatch(name):
        raise RequestError(
            Fault(where=where, what=f"{name!r} is no hub name", instead="Hub names look like owner/model.")
        )
    at = f" at {revision}" if revision else ""
    return Source(kind="hub", path=None, hub_name=name, revision=revision, said=f"model: {name} from the hub{at}")


def _put_on(base: str, adapter: str, revision: str | None, where: str) -> Source:
    """`BASE+ADAPTER`: the base that the adapter itself names is not looked at, so that it may be gone."""
    if not base or not adapter:
        raise RequestError(
            Fault(where=where, what=f"'{base}+{adapter}' is no BASE+ADAPTER", instead="Write a model on both sides.")
        )
    parent = from_name(base, revision, where=where)
    path = Path(adapter).expanduser().absolute()
    if not path.exists() and not is_path_spelling(adapter) and _HUB_NAME.fullmatch(adapter.removeprefix("hub:")):
        raise RequestError(
            Fault(
                where=where,
                what=f"behind the + of a model stands the directory of an adapter, and {adapter} is none here",
                instead=f"Download it (hf download {adapter.removeprefix('hub:')}) and give its path.",
            )
        )
    run = path.parent if (path.parent / "manifest.json").exists() else None
    if (path / "model" / "adapter_config.json").exists() and not (path / "adapter_config.json").exists():
        run, path = path, path / "model"
    if not (path / "adapter_config.json").exists():
        what = f"{adapter} does not exist" if not path.exists() else f"{adapter} holds no adapter_config.json"
        raise RequestError(Fault(where=where, what=what, instead=_near(path) if not path.exists() else ""))
    said = f"model: adapter {path} put on {parent.place}"
    return Source(
        kind="directory", path=path, hub_name=None, revision=None, said=said, adapter=True, parent=parent, run=run
    )


def _from_path(given: Path, where: str) -> Source:
    path = given.absolute()
    if not path.exists():
        raise RequestError(Fault(where=where, what=f"{given} does not exist", instead=_near(path)))
    if path.is_file():
        return _from_file(path, where)
    run = None
    if not (path / "config.json").exists() and not (path / "adapter_config.json").exists():
        if (path / "recipe.yaml").exists() and not (path / "manifest.json").exists():
            raise RequestError(
                Fault(
                    where=where,
                    what=f"the run {given} is not complete, so it has no model yet",
                    instead="Run the command that started it again; it resumes.",
                )
            )
        if (path / "model").is_dir():
            run, path = path, path / "model"
    elif (path.parent / "manifest.json").exists():
        run = path.parent
    if (path / "adapter_config.json").exists():
        return adapter_source(path, run, where)
    if not (path / "config.json").exists():
        gguf = sorted(path.glob("*.gguf"))
        if len(gguf) == 1:
            return _from_file(gguf[0], where)
        raise RequestError(
            Fault(
                where=where,
                what=f"{given} holds neither config.json nor adapter_config.json nor one GGUF file",
                instead=f"Name one of its GGUF files: {', '.join(f.name for f in gguf[:4])}."
                if gguf
                else "Give the directory that holds config.json.",
            )
        )
    return Source(kind="directory", path=path, hub_name=None, revision=None, said=_said(path, run), run=run)


def _from_file(path: Path, where: str) -> Source:
    if path.suffix.lower() != ".gguf":
        raise RequestError(
            Fault(
                where=where,
                what=f"{path.name} is a single file of a model",
                instead=f"Give its directory: {path.parent}, or a GGUF file.",
            )
        )
    return Source(kind="gguf", path=path, hub_name=None, revision=None, said=f"model: GGUF file {path}")


def _said(path: Path, run: Path | None) -> str:
    return f"model: result of run {run.name} ({path})" if run else f"model: directory {path}"


def adapter_source(path: Path, run: Path | None, where: str, seen: tuple[Path, ...] = ()) -> Source:
    """A PEFT adapter directory with the base it belongs to, which may be an adapter itself."""
    if path.resolve() in seen:
        raise RequestError(Fault(where=where, what=f"the adapter {path} names itself as its base, through others"))
    parent = _base_of(path, where, (*seen, path.resolve()))
    said = f"model: adapter {'of run ' + run.name if run else path} on {parent.place}"
    return Source(
        kind="directory", path=path, hub_name=None, revision=None, said=said, adapter=True, parent=parent, run=run
    )


def _base_of(adapter: Path, where: str, seen: tuple[Path, ...]) -> Source:
    origin = read_origin(adapter, where)
    noted = _noted_base(adapter, origin, where, seen) if origin is not None else None
    if noted is not None:
        return noted
    config = read_object(adapter / "adapter_config.json", where)
    name = config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise RequestError(
            Fault(
                where=where,
                what=f"{adapter / 'adapter_config.json'} does not say which base it belongs to",
                instead="Set base_model_name_or_path there.",
            )
        )
    beside = (adapter / name).resolve()
    for path in (Path(name).expanduser(), beside):
        if path.exists() and (path.is_absolute() or path == beside):
            return _as_base(path, where, seen)
    if not is_path_spelling(name) and _HUB_NAME.fullmatch(name):
        revision = config.get("revision")
        return _hub(name, revision if isinstance(revision, str) else None, where)
    raise RequestError(
        Fault(
            where=where,
            what=f"the adapter {adapter} belongs to {name}, which does not exist",
            instead="Bring the base back, or correct base_model_name_or_path in its adapter_config.json.",
        )
    )


def _as_base(path: Path, where: str, seen: tuple[Path, ...]) -> Source:
    if (path / "adapter_config.json").exists():
        run = path.parent if (path.parent / "manifest.json").exists() else None
        return adapter_source(path, run, where, seen)
    return _from_path(path, where)


def read_origin(adapter: Path, where: str = "model.name") -> dict[str, Any] | None:
    """What alignkit noted beside the adapter when it was saved; None for an adapter from elsewhere."""
    file = adapter / ORIGIN_FILE
    return read_object(file, where) if file.exists() else None


def _noted_base(adapter: Path, origin: dict[str, Any], where: str, seen: tuple[Path, ...]) -> Source | None:
    """The noted base, when it still resolves: installed file, absolute path, path from the adapter, hub name."""
    base = origin.get("base")
    if not isinstance(base, dict):
        return None
    installed = base.get("installed_file")
    hub = base.get("hub_name")
    if isinstance(installed, str) and installed_path(installed) is not None:
        return locate(Model(name=hub if isinstance(hub, str) else installed, installed_file=installed))
    for key in ("path", "relative"):
        noted = base.get(key)
        if isinstance(noted, str) and (adapter / noted).exists():
            return _as_base((adapter / noted).resolve() if key == "relative" else Path(noted), where, seen)
    if base.get("kind") == "hub" and isinstance(hub, str):
        revision = base.get("revision")
        return _hub(hub, revision if isinstance(revision, str) else None, where)
    return None


def _near(path: Path) -> str:
    """A hint with the nearest names beside a missing path."""
    parent = path.parent
    while not parent.is_dir() and parent != parent.parent:
        parent = parent.parent
    try:
        names = sorted(entry.name for entry in parent.iterdir())[:2000]
    except OSError:
        names = []
    wanted = path.relative_to(parent).parts[0] if path != parent else path.name
    close = difflib.get_close_matches(wanted, names, n=3)
    return f"Near it in {parent}: {', '.join(close)}." if close else f"{parent} holds nothing of a similar name."
