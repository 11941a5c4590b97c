"""From what a person wrote after `data=` to the place the rows come from, and the rows themselves.

The order is fixed. A name of recipes/data/ was already resolved by the recipe; what arrives here is

1. `generated:NAME`: a generator of this package (a folder of alignkit/data with a generate.py);
2. a path: it starts with `./`, `../`, `/` or `~`, ends in a known file suffix, or cannot be a hub name;
3. a hub name `owner/name`, also written `hub:owner/name`.

A name that could be a path here and a hub name is refused with both spellings.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from alignkit.data.reading.readers import READERS
from alignkit.data.rows import Row
from alignkit.errors import Fault, RequestError

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
TEXT_SUFFIXES = (".txt", ".md")
KNOWN = ", ".join(READERS)


@dataclass(frozen=True)
class Place:
    """Where rows come from. ``files``: in the order they are read; ``passed_over``: files of the directory that are
    not read, since nothing here reads their kind, or they are notes beside the data."""

    kind: Literal["files", "hub", "generated"]
    name: str
    files: tuple[Path, ...] = ()
    passed_over: tuple[Path, ...] = ()

    @property
    def said(self) -> str:
        """The shortest name for a line to a person."""
        return Path(self.name).name if self.kind == "files" else self.name


def locate(name: str, key: str = "data.name") -> Place:
    """The place that `name` means. Raises RequestError: nothing there (with near names), or two readings."""
    if name == "-":
        raise _refuse(key, "rows from stdin are not read", "Write them to a file first: … > rows.jsonl")
    if name.startswith("generated:"):
        return _generated(name.removeprefix("generated:"), key)
    if name.startswith("hub:"):
        return _hub(name.removeprefix("hub:"), key)
    path = Path(name).expanduser()
    if name.startswith(("./", "../", "/", "~")) or name in (".", "..") or path.suffix.lower() in READERS:
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


def read(
    place: Place,
    *,
    split: str = "train",
    config: str | None = None,
    revision: str | None = None,
    rows: int | None = None,
) -> Iterator[Row]:
    """All rows of a place, in order. ``split``, ``config`` and ``revision`` are for hub data sets, ``split`` and
    ``rows`` for generators. Raises RequestError at the first row that cannot be read."""
    if place.kind == "files":
        for file in place.files:
            for row in READERS[file.suffix.lower()](file, str(file), None):
                if isinstance(row, Fault):
                    raise RequestError(row)
                yield row
    elif place.kind == "generated":
        name = place.name.removeprefix("generated:")
        generate = importlib.import_module(f"alignkit.data.{name}.generate").generate
        for number, values in enumerate(generate(rows, split), 1):
            yield Row(values, f"{name} {split} row {number}")
    else:
        yield from _read_hub(place.name, split, config, revision)


def _path(name: str, path: Path, key: str) -> Place:
    if not path.exists():
        raise _refuse(key, f"there is no {name}", _near(name, path))
    if path.is_dir():
        return _directory(name, path, key)
    if path.suffix.lower() not in READERS:
        raise _refuse(key, f"{name} is of a kind that is not read here", f"Known suffixes: {KNOWN}.")
    return Place("files", name, (path,))


def _directory(name: str, path: Path, key: str) -> Place:
    inside = [p for p in path.rglob("*") if not any(part.startswith(".") for part in p.relative_to(path).parts)]
    every = sorted(p for p in inside if p.is_file())
    readable = [p for p in every if p.suffix.lower() in READERS]
    tables = [p for p in readable if p.suffix.lower() not in TEXT_SUFFIXES]
    files = tables or readable  # a README.md beside the data is no data
    if not files:
        held = f"it holds {', '.join(p.name for p in every[:5])}" if every else "it is empty"
        raise _refuse(key, f"the directory {name} has no file to read: {held}", f"Known suffixes: {KNOWN}.")
    return Place("files", name, tuple(files), tuple(p for p in every if p not in set(files)))


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


def _read_hub(name: str, split: str, config: str | None, revision: str | None) -> Iterator[Row]:
    from datasets import load_dataset

    try:
        rows: Any = load_dataset(name, config, split=split, revision=revision)
    except (OSError, ValueError) as error:  # not found, gated, offline, unknown split or configuration
        reason = " ".join(str(error).split())
        raise _refuse(
            "data.name",
            f"the hub data set {name} (split {split}) cannot be read: {reason[:300]}",
            "Check the name, data.split and data.config; without a network, give a local file.",
        ) from error
    for number, values in enumerate(rows, 1):
        yield Row(dict(values), f"{name} {split} row {number}")


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
    here = sorted(n for n in names if Path(n).suffix.lower() in READERS)[:5]
    return f"{parent.resolve().name or parent}/ holds {', '.join(here)}." if here else "Give the path of a data file."


def _refuse(key: str, what: str, instead: str) -> RequestError:
    return RequestError(Fault(where=key, what=what, instead=instead))
