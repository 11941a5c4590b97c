"""What a recipe's dataclass says: its sections, its keys, their types and defaults, as dotted names.

The dataclasses in `sections.py` and in `stages/*/recipe.py` are the only schema; this module reads them and nothing
else knows how they are built.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import lru_cache
from typing import Any, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Leaf:
    """One key that holds a value (not a section)."""

    key: str
    """Dotted name: `optimizer.learning_rate`."""
    annotation: Any
    """Type as declared, with its bounds."""
    required: bool
    """Whether something must set it."""
    default: Any
    """Value when nothing sets it; None when required."""
    operational: bool
    """Whether it leaves the weights alone (its own mark or its section's)."""
    of_name: bool
    """Whether it belongs to the section's `name`, and falls back to its default when the command line gives another."""
    owner: type
    """Dataclass that declares it."""

    @property
    def free(self) -> bool:
        """Whether it is a mapping with keys of the user's choice."""
        return (get_origin(self.annotation) or self.annotation) is dict


@dataclass(frozen=True)
class _Section:
    key: str
    cls: type
    optional: bool


@dataclass(frozen=True)
class Schema:
    """A recipe class laid out flat."""

    recipe: type
    leaves: dict[str, Leaf]
    sections: dict[str, type]
    """Dotted path of every section to its dataclass, outer ones first."""
    optional: frozenset[str]
    """Sections that are absent unless something is said of them."""

    def find(self, key: str) -> Leaf | None:
        """The leaf that `key` sets: itself, or the free mapping that it reaches into (`trl.x`)."""
        if key in self.leaves:
            return self.leaves[key]
        parts = key.split(".")
        for length in range(len(parts) - 1, 0, -1):
            leaf = self.leaves.get(".".join(parts[:length]))
            if leaf is not None:
                return leaf if leaf.free else None
        return None

    def path(self, key: str) -> list[str]:
        """`key` as steps into the tree. What follows a mapping of plain values is one key, dots and all."""
        leaf = self.find(key)
        if leaf is None or leaf.key == key:
            return key.split(".")
        rest = key[len(leaf.key) + 1 :]
        inner = (get_args(leaf.annotation) or (str, Any))[1]
        return [*leaf.key.split("."), *(rest.split(".") if inner is Any else [rest])]


def read_schema(recipe: type[Any]) -> Schema:
    """Lay out a recipe class (a dataclass of dataclasses)."""
    items = list(_walk(recipe, None, "", False))
    sections = [item for item in items if isinstance(item, _Section)]
    return Schema(
        recipe,
        {item.key: item for item in items if isinstance(item, Leaf)},
        {section.key: section.cls for section in sections},
        frozenset(section.key for section in sections if section.optional),
    )


def section_of(annotation: Any) -> type | None:
    """The dataclass in an annotation (`Model`, `Model | None`), or None for a plain value or a list of dataclasses."""
    for member in (annotation, *(() if get_origin(annotation) is list else get_args(annotation))):
        if isinstance(member, type) and is_dataclass(member):
            return member
    return None


def hints(cls: type) -> dict[str, Any]:
    """Annotations of a dataclass with their bounds."""
    return get_type_hints(cls, include_extras=True)


def default_of(field: Field[Any]) -> Any:
    """A field's default, made anew; MISSING when it is required."""
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _walk(cls: type, instance: Any, prefix: str, operational: bool) -> Iterator[Leaf | _Section]:
    annotations = hints(cls)
    for field in fields(cls):
        key = f"{prefix}{field.name}"
        default = getattr(instance, field.name) if instance is not None else default_of(field)
        marked = operational or bool(field.metadata.get("operational"))
        section = section_of(annotations[field.name])
        if section is not None:
            yield _Section(key, section, type(None) in get_args(annotations[field.name]) and default is None)
            yield from _walk(section, default if isinstance(default, section) else None, f"{key}.", marked)
            continue
        required = default is MISSING
        yield Leaf(
            key=key,
            annotation=annotations[field.name],
            required=required,
            default=None if required else default,
            operational=marked,
            of_name=bool(field.metadata.get("of_name")),
            owner=cls,
        )


@lru_cache(maxsize=64)
def field_docs(cls: type) -> dict[str, str]:
    """The docstring below each field of a dataclass and its bases, as one line each."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not is_dataclass(base):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for statement, after in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                docs[statement.target.id] = " ".join(after.value.value.split())
    return docs


def first_sentence(text: str) -> str:
    """Up to the first full stop with a capital letter after it ("et al. 2023" ends no sentence)."""
    for index, character in enumerate(text):
        if character == "." and (index + 1 == len(text) or (text[index + 1] == " " and text[index + 2].isupper())):
            return text[:index]
    return text
