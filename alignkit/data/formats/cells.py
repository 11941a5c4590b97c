"""The values of a row: what a person calls them, and how a column is read as text, number, yes or no."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

from alignkit.data.rows import Row
from alignkit.errors import Fault, RequestError

YES = frozenset({"true", "yes", "1", "1.0"})
NO = frozenset({"false", "no", "0", "0.0"})
NOTES = 100
"""Kinds of notes that are kept."""


def bad(where: str, what: str, instead: str = "") -> RequestError:
    """The error for one row."""
    return RequestError(Fault(where=where, what=what, instead=instead))


def count(notes: Counter[str], note: str) -> None:
    """Count something a person should hear, unless it would be one more of too many kinds (keys made of data)."""
    if note in notes or len(notes) < NOTES:
        notes[note] += 1


def shown(value: Any, limit: int = 60) -> str:
    """A value found in a row, shortened for a sentence."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text[: 20 * limit].split())
    return f"`{text[:limit]}…`" if len(text) > limit else f"`{text}`"


def kind_of(value: Any) -> str:
    """What a person calls the type of a JSON value."""
    if value is None:
        return "null"
    names = {bool: "true/false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def cell(row: Row, column: str) -> Any:
    """The value of a column that the row must have."""
    if column not in row.values:
        columns = ", ".join(row.values) or "(none)"
        raise bad(
            row.where,
            f"has no column `{column}` as the first row has; its columns are {columns}",
            "Give all rows the same columns, or split the file by format.",
        )
    return row.values[column]


def string(row: Row, column: str) -> str:
    """A column as text; a number counts as text."""
    value = cell(row, column)
    if isinstance(value, str):
        return value
    text = _number_text(value)
    if text is None:
        found = "NaN" if isinstance(value, float) and math.isnan(value) else kind_of(value)
        raise bad(row.where, f"column `{column}` holds {found}, and must be text", "Write text, or remove the row.")
    return text


def filled(row: Row, column: str) -> str:
    """A column as text that says something."""
    text = string(row, column)
    if not text or text.isspace():
        raise bad(row.where, f"column `{column}` is empty", "Write the text, or remove the row.")
    return text


def number(row: Row, column: str | None) -> float | None:
    """A column as a number; None where the row has no such column, or null in it."""
    value = None if column is None else row.values.get(column)
    if value is None or value == "":
        return None
    found = as_number(value)
    if found is None:
        raise bad(row.where, f"column `{column}` holds {shown(value)}, and must be a number", "Write one, or null.")
    return found


def as_number(value: Any) -> float | None:
    """A finite number, or a text that is one; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def as_bool(value: Any) -> bool | None:
    """true/false, 0/1, or a text that says so; None for anything else."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float | str):
        text = str(value).strip().lower()
        return True if text in YES else False if text in NO else None
    return None


def answer_key(value: Any) -> str | None:
    """What a checker compares with: text as it is, another JSON value as JSON; None for null."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _number_text(value: Any) -> str | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    return None
