"""From what a person wrote after `data=` to the place the rows come from, and the rows themselves.

The order is fixed. A name of recipes/data/ was already resolved by the recipe; what arrives here is

1. `generated:NAME`: a generator of this package (a folder of alignkit/data with a generate.py);
2. a path: it starts with `./`, `../`, `/` or `~`, ends in a known file suffix, or cannot be a hub name;
3. a pattern: it holds `*`, `?` or `[`, and no file has that name (`**` stands for any number of directories);
4. a hub name `owner/name`, also written `hub:owner/name`.

A name that could be a path here and a hub name is refused with both spellings.
"""

from __future__ import annotations

import glob
import json
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from alignkit.config.links import leads_out
from alignkit.data.reading.columnar import COLUMNAR
from alignkit.data.reading.compressed import COMPRESSIONS, is_compressed, plain_suffix
from alignkit.data.reading.readers import SUFFIXES, TEXT_SUFFIXES
from alignkit.errors import Fault, RequestError

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
KNOWN = f"{', '.join(SUFFIXES)}; all but the last three also with {' or '.join(COMPRESSIONS)}"
PATTERN = re.compile(r"[*?\[]")
ABOUT_DATA = ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json", "skipped.jsonl")
"""Endings of names: what libraries, and this one, write beside the rows."""
OTHERWISE = {
    ".zip": "Unpack it first.",
    ".tar": "Unpack it first.",
    ".tgz": "Unpack it first.",
    ".bz2": "Unpack it first (bunzip2).",
    ".xz": "Unpack it first (unxz).",
    ".7z": "Unpack it first.",
    ".xlsx": "Save the sheet as CSV.",
    ".xls": "Save the sheet as CSV.",
    ".ods": "Save the sheet as CSV.",
    ".docx": "Save it as plain text (.txt).",
    ".pdf": "Save it as plain text (.txt).",
}
"""What to do with files that people have and that are not read here."""


@dataclass(frozen=True)
class Place:
    """Where rows come from. ``files``: in the order they are read; ``passed_over``: files of the directory that are
    not read, since nothing here reads their kind, or they are notes beside the data."""

    kind: Literal["files", "hub", "generated"]
    name: str
    files: tuple[Path, ...] = ()
    passed_over: tuple[Path, ...] = ()
    splits: tuple[tuple[str, tuple[Path, ...]], ...] = ()
    """Of a directory that the datasets library saved with several splits: the files of each. Else empty."""

    @property
    def said(self) -> str:
        """The shortest name for a line to a person."""
        return (Path(self.name).name or self.name) if self.kind == "files" else self.name

    @property
    def size(self) -> int | None:
        """Bytes of all files as they stand on disk; None: not known before the rows are here."""
        return sum(file.stat().st_size for file in self.files) if self.kind == "files" else None


def locate(name: str, key: str = "data.name") -> Place:
    """The place that `name` means. Raises RequestError: nothing there (with near names), or two readings."""
    if name == "-":
        raise _refuse(key, "rows from stdin are not read", "Write them to a file first: … > rows.jsonl")
    if name.startswith("generated:"):
        return _generated(name.removeprefix("generated:"), key)
    if name.startswith("hub:"):
        return _hub(name.removeprefix("hub:"), key)
    path = Path(name).expanduser()
    if PATTERN.search(name) and not path.exists():
        return _pattern(name, key)
    if (
        name.startswith(("./", "../", "/", "~"))
        or name in (".", "..")
        or path.suffix.lower() in (*SUFFIXES, *COMPRESSIONS)
    ):
        return _path(name, path, key)
    if HUB_NAME.fullmatch(name):
        if path.exists():
            raise _refuse(
                key,
                f"`{name}` could be the {'directory' if path.is_dir() else 'file'} here or a hub data set",
                f"Write ./{name} for the one here, or hub:{name} for the hub's.",
            )
        return Place("hub", name)
    if path.exists():
        raise _refuse(key, f"`{name}` could be a path or a name of recipes/data", f"Write ./{name} for the path.")
    return _path(name, path, key)


def generators() -> list[str]:
    """The names that `generated:` takes."""
    return sorted(file.parent.name for file in Path(__file__).parent.parent.glob("*/generate.py"))


def is_readable(path: Path) -> bool:
    """Whether a file's name ends in what is read here."""
    suffix = plain_suffix(path)
    return suffix in SUFFIXES and not (is_compressed(path) and suffix in COLUMNAR)


def _path(name: str, path: Path, key: str) -> Place:
    if not path.exists():
        raise _refuse(key, f"there is no {name}", _near(name, path))
    if path.is_dir():
        return _saved(name, path, key) or _directory(name, path, key)
    if not path.is_file():
        raise _refuse(key, f"{name} is no regular file", "Write a pipe's rows to a file first, or write data=-.")
    if is_readable(path):
        return Place("files", name, (path,))
    if is_compressed(path):
        inner = plain_suffix(path)
        if inner in COLUMNAR:
            raise _refuse(key, f"{name} is compressed twice over, and such a file is read from its end", "Unpack it.")
        like = f"{Path(path.stem).stem}.jsonl{path.suffix.lower()}"
        raise _refuse(key, f"{name} does not say what is packed in it", f"Give it a name such as {like}.")
    instead = OTHERWISE.get(path.suffix.lower(), f"Known suffixes: {KNOWN}.")
    raise _refuse(key, f"{name} is of a kind that is not read here", instead)


def _directory(name: str, path: Path, key: str) -> Place:
    inside = [p for p in path.rglob("*") if not any(part.startswith(".") for part in p.relative_to(path).parts)]
    every = sorted(p for p in inside if p.is_file())
    for file in every:
        if leads_out(path, file):
            instead = "Copy the file there, or name it itself."
            raise _refuse(key, f"{file} is a link that leads out of its directory", instead)
    place = _chosen(name, every)
    if not place.files:
        held = f"it holds {', '.join(p.name for p in every[:5])}" if every else "it is empty"
        raise _refuse(key, f"the directory {name} has no file to read: {held}", f"Known suffixes: {KNOWN}.")
    return place


def _pattern(name: str, key: str) -> Place:
    names = glob.glob(str(Path(name).expanduser()), recursive=True)  # noqa: PTH207 -- Path.glob wants a relative one
    found = sorted(p for p in map(Path, names) if p.is_file())
    place = _chosen(name, found)
    if not place.files:
        if found:
            held = ", ".join(p.name for p in found[:5])
            raise _refuse(key, f"no file that {name} fits is read here: {held}", f"Known suffixes: {KNOWN}.")
        raise _refuse(key, f"no file fits the pattern {name}", _beside(name))
    return place


def _chosen(name: str, every: list[Path]) -> Place:
    """Which of all files are read: tables if there are any (a README.md beside the data is no data), else texts."""
    readable = [p for p in every if is_readable(p) and not p.name.endswith(ABOUT_DATA)]
    files = [p for p in readable if plain_suffix(p) not in TEXT_SUFFIXES] or readable
    return Place("files", name, tuple(files), tuple(p for p in every if p not in set(files)))


def _beside(name: str) -> str:
    """What stands in the directory that a pattern looks into."""
    folder = Path(*[part for part in Path(name).expanduser().parts[:-1] if not PATTERN.search(part)] or ["."])
    if not folder.is_dir():
        return f"Its directory {folder} does not exist."
    held = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))[:5]
    return f"{folder.resolve().name or folder}/ holds {', '.join(held) or 'nothing'}."


def _saved(name: str, path: Path, key: str) -> Place | None:
    """A directory that the datasets library's save_to_disk made; None: it is no such directory."""
    if (path / "dataset_dict.json").is_file():
        names = _json(path / "dataset_dict.json", key).get("splits", [])
        splits = tuple((str(split), _saved_files(path / str(split), key)) for split in names)
        return Place("files", name, tuple(file for _, files in splits for file in files), splits=splits)
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        return Place("files", name, _saved_files(path, key))
    return None


def _saved_files(path: Path, key: str) -> tuple[Path, ...]:
    told = _json(path / "state.json", key).get("_data_files", [])
    files = tuple(path / Path(str(entry["filename"])).name for entry in told)
    for file in files:
        if leads_out(path, file):
            raise _refuse(key, f"{file} is a link that leads out of its directory", "Copy the file there.")
        if not file.is_file():
            raise _refuse(key, f"{file} is missing, and {path / 'state.json'} names it", "Copy the directory again.")
    return files


def _json(path: Path, key: str) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _refuse(key, f"{path} cannot be read ({error})", "Copy the directory again.") from error
    return found if isinstance(found, dict) else {}


def _generated(name: str, key: str) -> Place:
    if name not in generators():
        raise _refuse(key, f"there is no generator `{name}`", f"There are: {', '.join(generators())}.")
    return Place("generated", f"generated:{name}")


def _hub(name: str, key: str) -> Place:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name):
        raise _refuse(key, f"`{name}` cannot be the name of a hub data set", "Such a name is written owner/name.")
    if Path(name).exists():
        raise _refuse(
            key,
            f"`{name}` stands here too, and the datasets library takes what stands here before the hub's",
            "Start from another directory, or rename the one here.",
        )
    return Place("hub", name)


def _near(name: str, path: Path) -> str:
    """What stands nearby, for a name that does not."""
    parent = path.parent
    if not parent.is_dir():
        return f"Its directory {parent} does not exist either."
    names = [p.name for p in parent.iterdir()]
    lowered = {n.lower(): n for n in names}
    near = [lowered[n] for n in get_close_matches(path.name.lower(), lowered, n=3, cutoff=0.6)]
    found = [str(Path(name).parent / n) if "/" in name else n for n in near]
    if "/" not in name and not path.suffix:
        found += [f"generated:{n}" for n in get_close_matches(name, generators(), n=1)]
        hub = f"A hub data set is written owner/name, or hub:{name}."
        return f"Did you mean {' or '.join(found)}? {hub}" if found else hub
    if found:
        return f"Did you mean {' or '.join(found)}?"
    here = sorted(n for n in names if is_readable(Path(n)))[:5]
    return f"{parent.resolve().name or parent}/ holds {', '.join(here)}." if here else "Give the path of a data file."


def _refuse(key: str, what: str, instead: str) -> RequestError:
    return RequestError(Fault(where=key, what=what, instead=instead))
