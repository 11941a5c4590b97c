"""Where recipes are found: the directories, in order, and what is in them.

The order is `--recipes DIR` (first given first), then `./recipes`, then what the package ships; a recipe given as a
file has its own directory before all of these. A file in an earlier directory stands before one of the same name in
a later directory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from alignkit.errors import Fault, RequestError


@dataclass(frozen=True)
class Directory:
    """One directory of the search path."""

    path: Path
    """Absolute."""
    label: str
    """How it is shown to a person: `recipes`, `./recipes`, `--recipes` as typed."""


@dataclass(frozen=True)
class Found:
    """A recipe that was looked up."""

    name: str
    """As it is called in a `defaults:` list: the file's name without `.yaml`."""
    file: Path
    label: str
    search: tuple[Directory, ...]
    """Directories for its groups and parents, first one first."""


def shipped_recipes() -> Path:
    """The directory of the recipes that come with alignkit: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "_recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def search_path(recipes: Sequence[Path] = ()) -> tuple[Directory, ...]:
    """The directories to look in, each once. Raises RequestError for a `--recipes` that is not there or is empty."""
    faults: list[Fault] = []
    listed: list[Directory] = []
    for directory in recipes:
        where = f"--recipes {directory}"
        path = directory.expanduser()
        if not path.is_dir():
            what = "is a file, not a directory" if path.exists() else "there is no such directory"
            faults.append(Fault(where=where, what=what, instead="Write a directory that holds recipe files."))
        elif not any(path.rglob("*.yaml")):
            faults.append(Fault(where=where, what="holds no .yaml file", instead="Write a directory of recipes."))
        else:
            listed.append(Directory(path.resolve(), str(directory)))
    if faults:
        raise RequestError(faults)
    shipped = shipped_recipes().resolve()
    own = Path("recipes")
    if own.is_dir() and own.resolve() != shipped:
        listed.append(Directory(own.resolve(), "./recipes"))
    listed.append(Directory(shipped, "recipes"))
    return _once(listed)


def is_file_name(name: str) -> bool:
    """Whether `recipe=` gives a file rather than a name."""
    return "/" in name or name.endswith((".yaml", ".yml"))


def find_recipe(name: str, search: Sequence[Directory]) -> Found:
    """Look a recipe up by name or file. Raises RequestError, naming what there is."""
    if is_file_name(name):
        return _find_file(name, search)
    for directory in search:
        file = directory.path / f"{name}.yaml"
        if file.is_file():
            return Found(name, file, f"{directory.label}/{name}.yaml", tuple(search))
    known = recipe_names(search)
    if "," in name and set(name.split(",")) <= set(known):
        raise RequestError(
            Fault(where=f"recipe={name}", what="is several", instead="Write one, or add --sweep for one run of each.")
        )
    near = get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise RequestError(
        Fault(where=f"recipe={name}", what="there is no such recipe", instead=f"{hint}There are: {', '.join(known)}.")
    )


def _find_file(name: str, search: Sequence[Directory]) -> Found:
    file = Path(name).expanduser()
    where = f"recipe={name}"
    if not file.is_file():
        what = "is a directory" if file.is_dir() else "there is no such file"
        near = get_close_matches(file.name, [other.name for other in _yaml_files(file.parent)], n=1)
        hint = (
            f"Did you mean {file.parent / near[0]}?" if near else "Write the path of a YAML file, or a recipe's name."
        )
        raise RequestError(Fault(where=where, what=what, instead=hint))
    if file.suffix != ".yaml" or "@" in file.stem:
        raise RequestError(
            Fault(
                where=where, what="cannot be used under this name", instead="Rename it to end in .yaml, without an @."
            )
        )
    own = Directory(file.resolve().parent, str(file.parent) if file.parent != Path() else ".")
    return Found(file.stem, file.resolve(), name, _once([own, *search]))


def recipe_names(search: Sequence[Directory]) -> list[str]:
    """Names of all recipes, sorted, each once."""
    return sorted({file.stem for directory in search for file in _yaml_files(directory.path)})


def is_group(group: str, search: Sequence[Directory]) -> bool:
    """Whether a directory of the search path holds a group of this name."""
    return any((directory.path / group).is_dir() for directory in search)


def choices(group: str, search: Sequence[Directory]) -> list[str]:
    """Names of the files of a group, sorted, each once."""
    return sorted({file.stem for directory in search for file in _yaml_files(directory.path / group)})


def locate(config: str, search: Sequence[Directory]) -> tuple[Path, str] | None:
    """File and label of `lora` or `model/tickets`: the first directory that has it."""
    for directory in search:
        file = directory.path / f"{config}.yaml"
        if file.is_file():
            return file, f"{directory.label}/{config}.yaml"
    return None


def within(file: Path, search: Sequence[Directory]) -> bool:
    """Whether a file lies in one of the directories, wherever links lead."""
    place = file.resolve()
    return any(place.is_relative_to(directory.path) for directory in search)


def _yaml_files(directory: Path) -> list[Path]:
    return sorted(file for file in directory.glob("*.yaml") if file.is_file()) if directory.is_dir() else []


def _once(directories: Sequence[Directory]) -> tuple[Directory, ...]:
    seen: dict[Path, Directory] = {}
    for directory in directories:
        seen.setdefault(directory.path, directory)
    return tuple(seen.values())
