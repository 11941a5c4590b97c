"""What the command line asks for: `model=VALUE` and the like become choices of a group or values of keys.

A short form is the name of a section: of the recipe itself (`adapter=lora`) or of one further in, when only one has
that name (`teacher=…` for `distill.teacher`). Its value is a file of the section's group, or else the section's `name`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from alignkit.config import search
from alignkit.config.overrides import ORIGIN, Override, UnreadableError, annotation_of, read_text
from alignkit.config.provenance import with_origin
from alignkit.config.schema import Schema
from alignkit.config.search import Directory
from alignkit.errors import Fault


@dataclass
class Request:
    """What the command line asks for, in the recipe's terms."""

    chosen: dict[str, str | None] = field(default_factory=dict)
    """Group (`model`, `model@distill.teacher`) to the choice in it; None: the recipe's choice is taken out."""
    values: list[tuple[list[str], Any]] = field(default_factory=list)
    """Places in the tree and values, in the order typed."""
    faults: list[Fault] = field(default_factory=list)


def interpret(given: Sequence[Override], schema: Schema, directories: Sequence[Directory]) -> Request:
    """Turn overrides into choices and values."""
    request = Request()
    for override in given:
        section = _section(override, schema, directories)
        if section is not None:
            _short_form(override, section, schema, directories, request)
        else:
            _value(override, schema, request)
    return request


def _section(override: Override, schema: Schema, directories: Sequence[Directory]) -> str | None:
    """The section that a word is a short form of, or None for a plain key."""
    key = override.key
    if key in schema.sections:
        return key
    owner, _, last = key.rpartition(".")
    if owner in schema.sections and last == "name":  # model.name=… says the same as model=…
        return owner
    if owner in schema.sections and last == "kind":
        group = _group(owner, schema, directories)
        return owner if group and override.text in search.choices(group, directories) else None
    if "." in key or key in schema.leaves:
        return None
    deeper = [path for path in schema.sections if path.rpartition(".")[2] == key]
    return deeper[0] if len(deeper) == 1 else None


def _group(section: str, schema: Schema, directories: Sequence[Directory]) -> str | None:
    """The directory of choices for a section: of its own name, else of its dataclass's (a teacher is a Model)."""
    names = [section.rpartition(".")[2], *(base.__name__.lower() for base in schema.sections[section].__mro__)]
    return next((name for name in names if search.is_group(name, directories)), None)


def _short_form(
    override: Override, section: str, schema: Schema, directories: Sequence[Directory], request: Request
) -> None:
    group = _group(section, schema, directories)
    names = search.choices(group, directories) if group else []
    place = section if group in (section, None) else f"{group}@{section}"
    annotation = schema.leaves[f"{section}.name"].annotation if f"{section}.name" in schema.leaves else None
    text = _unquoted(override.text)
    choice = text.removesuffix(".yaml")
    if choice in names:
        if annotation is str and choice == text and Path(choice).exists():
            request.faults.append(_ambiguous(override, group or "", choice))
            return
        request.chosen[place] = choice
        _forget(request, [*section.split("."), "name"], [*section.split("."), "kind"])
        return
    if text == "null" and section in schema.optional:  # what a file says of it is taken back
        request.chosen[place] = None
        request.values.append((section.split("."), None))
        return
    if text.startswith("{") and text.endswith("}"):
        _value(override, schema, request, section)
        return
    if (
        text.startswith("[") and text.endswith("]") and f"{section}.sources" in schema.leaves
    ):  # several of them, in place of the one named
        request.chosen[place] = None
        request.values.append(([*section.split("."), "name"], ""))
        _value(Override(f"{section}.sources", override.text, override.word), schema, request)
        return
    if annotation is not None:
        if near := _mistyped(text, names):
            request.faults.append(_nearly(override, group or "", near))
            request.chosen[place] = near  # so that the rest is checked as it was meant
            return
        request.chosen[place] = None
        _value(Override(f"{section}.name", override.text, override.word), schema, request)
        return
    request.faults.append(_no_choice(override, section, schema, group, names))


def _value(override: Override, schema: Schema, request: Request, section: str | None = None) -> None:
    key = section or override.key
    annotation = dict[str, Any] if section else annotation_of(schema.find(key), key)
    try:
        value = read_text(override.text, annotation, override.key)
    except UnreadableError as problem:
        request.faults.append(Fault(where=with_origin(override.key, ORIGIN), what=str(problem)))
        return
    request.values.append((schema.path(key), value))


def _unquoted(text: str) -> str:
    quoted = re.fullmatch(r"(['\"])([\w./-]*)\1", text)
    return quoted.group(2) if quoted else text


def _forget(request: Request, *places: list[str]) -> None:
    """A later choice takes back an earlier name of the same section."""
    request.values = [(place, value) for place, value in request.values if place not in places]


def _mistyped(text: str, names: Sequence[str]) -> str | None:
    """The group's name that a bare word nearly is: taken for a hub name, it would fail much later and say less."""
    bare = re.fullmatch(r"[\w.-]+", text) is not None and not text.startswith(".") and not Path(text).exists()
    near = get_close_matches(text, names, n=1, cutoff=0.8) if bare else []
    return near[0] if near else None


def _nearly(override: Override, group: str, near: str) -> Fault:
    key = override.key
    return Fault(
        where=with_origin(f"{key}={override.text}", ORIGIN),
        what=f"there is no {override.text} in recipes/{group}/ and no such path here",
        instead=f"Did you mean {key}={near}? For a hub name of this spelling write {key}=hub:{override.text}.",
    )


def _ambiguous(override: Override, group: str, choice: str) -> Fault:
    key = override.key
    return Fault(
        where=with_origin(f"{key}={choice}", ORIGIN),
        what=f"{choice} is a name in recipes/{group}/ and also a path here",
        instead=f"Write {key}={choice}.yaml for the name, or {key}=./{choice} for the path.",
    )


def _no_choice(override: Override, section: str, schema: Schema, group: str | None, names: Sequence[str]) -> Fault:
    where = with_origin(f"{override.key}={override.text}", ORIGIN)
    known = sorted({*names, *_kinds(section, schema)})
    if "," in override.text and set(override.text.split(",")) <= set(known):
        return Fault(where=where, what="is several", instead="Write one, or add --sweep for one run of each.")
    near = get_close_matches(override.text, known, n=1)
    if known:
        hint = f"Did you mean {near[0]}? " if near else ""
        return Fault(
            where=where, what=f"there is no {section} of that name", instead=f"{hint}There are: {', '.join(known)}."
        )
    keys = ", ".join(f"{section}.{one.name}" for one in fields(schema.sections[section]))
    return Fault(where=where, what=f"{section} is a section with keys of its own", instead=f"Write one of {keys}.")


def _kinds(section: str, schema: Schema) -> tuple[str, ...]:
    leaf = schema.leaves.get(f"{section}.kind")
    return tuple(str(kind) for kind in get_args(leaf.annotation)) if leaf else ()
