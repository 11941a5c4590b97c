"""`alignkit recipes copy`: a small file of one's own that extends a recipe, with the lines one would change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from alignkit.config import search
from alignkit.config.compose import Composed, compose
from alignkit.config.provenance import BUILT_IN
from alignkit.config.schema import Schema, field_docs, first_sentence, read_schema
from alignkit.config.search import is_file_name
from alignkit.config.showing import scalar
from alignkit.errors import Fault, RequestError

OFTEN_CHANGED = (
    *("model.name", "data.name", "data.max_length", "adapter.rank", "optimizer.learning_rate"),
    *("schedule.epochs", "batch.size", "evaluation.rows"),
)
"""Keys that are listed whether or not the recipe sets them, as far as its stage has them."""


ABSENT = object()
"""Stands for the keys of an optional section that was not asked for."""


def write_starter(name: str, file: Path | None, *, recipes: Sequence[Path] = ()) -> Path:
    """Write a starting file that extends recipe `name`; returns its path.

    Without `file` it becomes `./recipes/NAME-mine.yaml`, which `recipe=NAME-mine` then finds. Raises RequestError when
    the file exists, when it would extend itself, or when the recipe is not known.
    """
    if is_file_name(name):
        raise RequestError(
            Fault(where=name, what="only a recipe with a name can be extended", instead="Copy the file itself with cp.")
        )
    composed = compose(name, recipes=recipes)
    target = file if file is not None else Path("recipes") / f"{name}-mine.yaml"
    where = str(target)
    if target.suffix != ".yaml":
        raise RequestError(Fault(where=where, what="a recipe's file ends in .yaml", instead=f"Write {target}.yaml."))
    if target.stem == name:
        other = target.with_stem(f"{name}-mine")
        raise RequestError(
            Fault(where=where, what=f"a file named {name} would extend itself", instead=f"Write {other}, for example.")
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("x", encoding="utf-8") as out:
            out.write(starter(composed))
    except FileExistsError:
        raise RequestError(
            Fault(where=where, what="is there already, and is not overwritten", instead="Write another FILE.")
        ) from None
    return target


def starter(composed: Composed) -> str:
    """The text of the file: defaults, and the lines one would change as comments."""
    schema = read_schema(type(composed.recipe))
    keys = [key for key in schema.leaves if _shown(key, composed, schema) and key != "stage"]
    lines = [
        f"# My variant of {composed.name}",
        "defaults:",
        f"  - {composed.name}",
        *_unset_groups(composed),
        "  - _self_",
        "",
        "# Take the # away from a line, and from its section's name, to change it.",
    ]
    written: list[str] = []
    width = max((len(_line(key, composed, schema)) for key in keys), default=0)
    for key in keys:
        sections = key.split(".")[:-1]
        for depth in range(len(sections)):
            section = ".".join(sections[: depth + 1])
            if section not in written:
                written.append(section)
                lines.append(f"#{'  ' * depth}{sections[depth]}:")
        leaf = schema.leaves[key]
        doc = first_sentence(field_docs(leaf.owner).get(key.rpartition(".")[2], ""))
        lines.append(f"{_line(key, composed, schema):<{width}}  # {doc}" if doc else _line(key, composed, schema))
    return "\n".join(lines) + "\n"


def _unset_groups(composed: Composed) -> list[str]:
    """Groups that would fill a section that the recipe leaves to the user."""
    directories = search.search_path()
    lines = []
    for section, inner in composed.values.items():
        names = search.choices(section, directories)
        if isinstance(inner, dict) and inner.get("name") == "" and names:
            shown = ", ".join(names[:4])
            lines.append(f"#  - {section}: {names[0]}  # there are: {shown}{', …' if len(names) > 4 else ''}")
    return lines


def _shown(key: str, composed: Composed, schema: Schema) -> bool:
    """Often changed, set by the recipe's files, or the stage's own."""
    if schema.leaves[key].of_name or _value(key, composed) is ABSENT:
        return False
    section = key.split(".")[0]
    own = section in schema.sections and is_dataclass(schema.recipe) and section in _own_sections(schema.recipe)
    return key in OFTEN_CHANGED or own or composed.origins.get(key, BUILT_IN) != BUILT_IN


def _own_sections(recipe: type) -> set[str]:
    """Sections that come with the stage: fields that the shared base classes do not have."""
    from alignkit.config.recipe import GradientRecipe, StageRecipe

    shared = {one.name for base in (StageRecipe, GradientRecipe) for one in fields(base)}
    return {one.name for one in fields(recipe)} - shared  # type: ignore[arg-type]


def _value(key: str, composed: Composed) -> Any:
    """The value of a key; ABSENT where an optional section was not asked for."""
    value: Any = composed.values
    for step in key.split("."):
        if not isinstance(value, dict):
            return ABSENT
        value = value[step]
    return value


def _line(key: str, composed: Composed, schema: Schema) -> str:
    """`#  learning_rate: 0.0002`; `…` for what a person has to say."""
    value = _value(key, composed)
    depth = key.count(".")
    unsaid = schema.leaves[key].required and composed.origins.get(key, BUILT_IN) == BUILT_IN
    text = "…" if unsaid or value == "" else scalar(value)
    return f"#{'  ' * depth}{key.rpartition('.')[2]}: {text}"
