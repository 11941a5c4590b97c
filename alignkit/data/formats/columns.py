"""`data.columns` and `data.map`: the data's own columns under the names that the formats know."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from alignkit.data.formats.cells import bad, kind_of
from alignkit.data.rows import Row
from alignkit.errors import Fault, RequestError

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True, slots=True)
class Columns:
    """How a row's columns are renamed and made.

    ``renamed``: (our name, theirs); ``made``: (our name, pieces of text and, as one-tuples, names of columns).
    """

    renamed: tuple[tuple[str, str], ...] = ()
    made: tuple[tuple[str, tuple[str | tuple[str], ...]], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.renamed or self.made)

    def apply(self, row: Row) -> Row:
        """The row with its columns under our names. Raises RequestError naming the column that it lacks."""
        values = row.values
        taken = {theirs for _, theirs in self.renamed}
        named = {name: value for name, value in values.items() if name not in taken}
        for ours, theirs in self.renamed:
            if theirs not in values:
                raise bad(row.where, f"has no column `{theirs}`, which data.columns reads as `{ours}`", _has(values))
            named[ours] = values[theirs]
        for ours, pieces in self.made:
            named[ours] = "".join(p if isinstance(p, str) else _written(row, p[0], ours) for p in pieces)
        return Row(named, row.where)

    def theirs(self, error: RequestError) -> RequestError:
        """The same error with the data's own names of columns where it says ours."""
        faults = []
        for fault in error.faults:
            what, where = fault.what, fault.where
            for ours, name in self.renamed:
                what, where = what.replace(f"`{ours}`", f"`{name}`"), where.replace(f"`{ours}`", f"`{name}`")
            faults.append(Fault(where=where, what=what, instead=fault.instead))
        return RequestError(faults)

    def said(self, column: str) -> str:
        """A column for people: `question_text as prompt`."""
        theirs = dict(self.renamed).get(column)
        if theirs is not None:
            return f"{theirs} as {column}"
        return f"{column} made by data.map" if column in dict(self.made) else column


def columns_of(columns: Mapping[str, str], made: Mapping[str, str], first: Row, known: Iterable[str]) -> Columns:
    """`data.columns` and `data.map`, checked against the first row. Raises RequestError with every fault found.

    Args:
        columns: our name to theirs.
        made: our name to a text with `{column}` in it; `{{` and `}}` are braces.
        first: the first row as it was read.
        known: the names that some format reads.
    """
    known = sorted(known)
    faults: list[Fault] = []
    for key, names in (("data.columns", columns), ("data.map", made)):
        faults += [_unknown(f"{key}.{ours}", ours, known) for ours in names if ours not in known]
    for ours in columns.keys() & made.keys():
        faults.append(Fault(where=f"data.map.{ours}", what=f"data.columns makes `{ours}` too", instead="Keep one."))
    faults += [
        _missing(f"data.columns.{ours}", theirs, first)
        for ours, theirs in columns.items()
        if theirs not in first.values
    ]
    templates = []
    for ours, text in made.items():
        pieces, wrong = _pieces(f"data.map.{ours}", text)
        faults += wrong
        faults += [
            _missing(f"data.map.{ours}", piece[0], first)
            for piece in pieces
            if isinstance(piece, tuple) and piece[0] not in first.values
        ]
        templates.append((ours, tuple(pieces)))
    if faults:
        raise RequestError(faults)
    return Columns(tuple(columns.items()), tuple(templates))


def map_faults(made: Mapping[str, str], where: str = "data.map") -> list[Fault]:
    """What is wrong with the texts of `data.map` whatever the data is."""
    return [fault for ours, text in made.items() for fault in _pieces(f"{where}.{ours}", text)[1]]


def _pieces(where: str, text: str) -> tuple[list[str | tuple[str]], list[Fault]]:
    """A text of data.map taken apart, and what is wrong with its braces."""
    pieces: list[str | tuple[str]] = []
    faults: list[Fault] = []
    at = 0
    for match in _PIECE.finditer(text):
        pieces.append(text[at : match.start()])
        at = match.end()
        if match[1] is not None:
            name = match[1]
            if not name.strip():
                faults.append(Fault(where=where, what="`{}` names no column", instead="Write {column}, or {{}}."))
            pieces.append((name,))
        elif match[0] in ("{{", "}}"):
            pieces.append(match[0][0])
        else:
            what = f"a single `{match[0]}` at character {match.start() + 1}"
            faults.append(Fault(where=where, what=what, instead="Write {{ for { and }} for }, or {column}."))
    pieces.append(text[at:])
    return [piece for piece in pieces if piece], faults


def _written(row: Row, column: str, ours: str) -> str:
    """A value within a text of data.map."""
    if column not in row.values:
        raise bad(row.where, f"has no column `{column}`, which data.map.{ours} reads", _has(row.values))
    value = row.values[column]
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        found = "null" if value is None else "no number"
        what = f"column `{column}`, which data.map.{ours} reads, holds {found}"
        raise bad(row.where, what, "Write text, or an empty text.")
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        what = f"column `{column}`, which data.map.{ours} reads, holds {kind_of(value)}"
        raise bad(row.where, what, "Write text.") from None


def _has(values: Mapping[str, Any]) -> str:
    return f"Its columns are {', '.join(values) or '(none)'}."


def _missing(where: str, name: str, first: Row) -> Fault:
    return Fault(where=where, what=f"there is no column `{name}` in {first.where}", instead=near(name, first.values))


def _unknown(where: str, name: str, known: list[str]) -> Fault:
    return Fault(
        where=where, what=f"no format reads a column `{name}`", instead=near(name, known, "Names that are read")
    )


def near(name: str, names: Iterable[str], called: str = "Its columns are") -> str:
    """What was meant, perhaps, and what there is."""
    names = list(names)
    meant = get_close_matches(name, names, n=1, cutoff=0.6)
    meant = meant or [other for other in names if other.lower() == name.lower()]
    lead = f"Did you mean `{meant[0]}`? " if meant else ""
    return f"{lead}{called.rstrip(':')}: {', '.join(names) or '(none)'}."
