"""A tree of values into a recipe: every key and value is checked against the dataclasses, and every fault is found.

A value that does not fit is replaced by its default, so that what comes after can be checked all the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field, fields
from typing import Any

from alignkit.config.nearest import nearest
from alignkit.config.provenance import leaves
from alignkit.config.recipe import StageRecipe
from alignkit.config.schema import Leaf, Schema, field_docs, first_sentence
from alignkit.config.values import MismatchError, empty, read
from alignkit.errors import Fault


@dataclass
class Built:
    """A recipe and what is wrong with the values it was made of."""

    recipe: StageRecipe
    faults: list[Fault] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    """Keys that hold something else than what was asked for."""


def build(schema: Schema, tree: dict[str, Any], place: Callable[[str], str]) -> Built:
    """Make the recipe. `place` says where a key stands: its name with the file or word it came from."""
    builder = _Builder(schema, place)
    recipe = builder.section(schema.recipe, tree, "")
    return Built(recipe, builder.faults, builder.broken)


def combinations(built: Built, place: Callable[[str], str]) -> Iterator[Fault]:
    """What the recipe itself says of its values together, but for what a broken value may have brought about."""
    words = set(built.broken)
    words |= {key.rpartition(".")[0] for key in built.broken if key.endswith((".name", ".kind"))}
    for fault in built.recipe.faults():
        if not any(re.search(rf"\b{re.escape(word)}\b", str(fault)) for word in words):
            yield Fault(where=place(fault.where), what=fault.what, instead=fault.instead)


class _Builder:
    def __init__(self, schema: Schema, place: Callable[[str], str]) -> None:
        self.schema = schema
        self.place = place
        self.faults: list[Fault] = []
        self.broken: set[str] = set()

    def fault(self, key: str, what: str, instead: str = "") -> None:
        self.faults.append(Fault(where=self.place(key), what=what, instead=instead))
        if key in self.schema.leaves or key in self.schema.sections:
            self.broken.add(key)

    def section(self, cls: type, given: Any, prefix: str) -> Any:
        """One dataclass from its mapping; `prefix` is its dotted path with a dot at the end."""
        if not isinstance(given, dict):
            self.not_a_section(prefix[:-1], given)
            given = {}
        names = [one.name for one in fields(cls)]
        for name in given:
            if name not in names:
                for place, _ in leaves(given[name], (name,)):
                    self.unknown(prefix + ".".join(place))
        return cls(**{name: self.one(f"{prefix}{name}", given, name) for name in names})

    def one(self, key: str, given: dict[str, Any], name: str) -> Any:
        """A field: a section, or a leaf."""
        inner = self.schema.sections.get(key)
        if inner is None:
            return self.leaf(self.schema.leaves[key], given, name)
        if key in self.schema.optional and (given.get(name) is None):
            return None
        return self.section(inner, given.get(name, {}), f"{key}.")

    def leaf(self, leaf: Leaf, given: dict[str, Any], name: str) -> Any:
        if name not in given or (leaf.required and given[name] in ("", "???")):
            if leaf.required:
                other = getattr(leaf.owner, "in_place_of", {}).get(name)
                if not (other and given.get(other)):
                    self.missing(leaf)
                return empty(leaf.annotation)
            return deepcopy(leaf.default)
        try:
            return read(leaf.annotation, given[name])
        except MismatchError as problem:
            self.fault(leaf.key, str(problem))
            return empty(leaf.annotation) if leaf.required else deepcopy(leaf.default)

    def missing(self, leaf: Leaf) -> None:
        section, _, last = leaf.key.rpartition(".")
        doc = first_sentence(field_docs(leaf.owner).get(last, ""))
        doc = f" ({doc[0].lower()}{doc[1:]})" if doc else ""
        self.fault(
            leaf.key, "is required, and nothing sets it", f"Write {section if last == 'name' else leaf.key}=…{doc}."
        )

    def not_a_section(self, key: str, given: Any) -> None:
        names = [name for name in self.schema.leaves if name.startswith(f"{key}.")]
        first = next((name for name in names if name.rpartition(".")[2] in ("name", "kind")), names[0])
        self.fault(
            key,
            f"is a section, and cannot be {given!r}" if given is not None else "is a section, and is left empty",
            f"Write its keys below it (`{first.rpartition('.')[2]}: …`), or choose one under `defaults:`"
            f" (`- {key}: NAME`).",
        )

    def unknown(self, key: str) -> None:
        if key in self.schema.leaves:
            parts = key.split(".")
            self.fault(key, "a key in a file has no dots", f"Write `{': {'.join(parts)}: …{'}' * (len(parts) - 1)}`.")
            return
        near = nearest(key, self.schema.leaves)
        if near:
            self.fault(key, "there is no such key", f"Did you mean {' or '.join(near)}?")
            return
        section = key.rpartition(".")[0]
        if section in self.schema.sections:
            known = [name.rpartition(".")[2] for name in self.schema.leaves if name.rpartition(".")[0] == section]
            self.fault(key, "there is no such key", f"{section} has: {', '.join(known)}.")
            return
        top = list(dict.fromkeys(name.split(".")[0] for name in self.schema.leaves))
        self.fault(key, "there is no such key", f"At the top level there are: {', '.join(top)}.")
