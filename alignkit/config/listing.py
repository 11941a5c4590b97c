"""What recipes there are, with the line that says what each is for. Nothing is composed for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alignkit.config import search
from alignkit.config.search import Directory
from alignkit.errors import RequestError


@dataclass(frozen=True)
class Entry:
    """One recipe of the search path."""

    name: str
    stage: str
    """Its own `stage:` or that of the recipe it extends; empty when it has none."""
    line: str
    """First comment line of the file."""
    label: str
    """Where it stands."""


def list_recipes(recipes: Sequence[Path] = ()) -> list[Entry]:
    """Every recipe that `recipe=NAME` reaches, sorted by name. Raises RequestError for a missing `--recipes`."""
    directories = search.search_path(recipes)
    entries = []
    for name in search.recipe_names(directories):
        located = search.locate(name, directories)
        assert located is not None
        file, label = located
        entries.append(Entry(name, _stage(name, directories, set()) or "", first_line(file), label))
    return entries


def first_line(file: Path) -> str:
    """The description that a recipe's file starts with."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        line = next(lines, "").strip()
    return line.lstrip("# ").rstrip(".") if line.startswith("#") else ""


def _stage(name: str, directories: Sequence[Directory], seen: set[str]) -> str | None:
    """The `stage:` line of a recipe, or of the last recipe among its defaults."""
    from alignkit.config.layers import read_yaml

    located = search.locate(name, directories)
    if located is None or name in seen:
        return None
    try:
        values = read_yaml(*located)
    except RequestError:
        return "cannot be read"
    if "stage" in values:
        return str(values["stage"])
    defaults = values.get("defaults")
    parents = [entry for entry in (defaults if isinstance(defaults, list) else []) if isinstance(entry, str)]
    stages = [_stage(parent, directories, seen | {name}) for parent in parents if parent != "_self_"]
    return next((stage for stage in reversed(stages) if stage), None)
