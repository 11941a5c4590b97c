"""Whether a generated answer is the reference: exact match that knows JSON and numbers."""

from __future__ import annotations

import json
import re
import unicodedata
from decimal import Decimal
from typing import Any

_NUMBER = re.compile(
    r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3})?(?!\w)|(?<![\w.])[-+]?\.\d+(?!\w)"
)
_MARK = "####"


def matches(answer: str, reference: str) -> bool:
    """Whether `answer` says the same as `reference`.

    - The reference is a JSON object: the whole answer must be one with equal fields, in any order; 1 equals 1.0, but
      neither equals true or "1".
    - The reference is a number, or ends in `#### 42`: the number after the answer's last `####`, or else the last
      number in it, must be equal (`1,000` is 1000, `$18.00` is 18).
    - Anything else: the same text, but for case, runs of white space and a full stop at the end.
    """
    expected = _json_object(reference)
    if expected is not None:
        found = _json_object(answer)
        return found is not None and _same(found, expected)
    number = _reference_number(reference)
    if number is not None:
        return _last_number(answer) == number
    return _normal(answer) == _normal(reference)


def _json_object(text: str) -> dict[str, Any] | None:
    """A text that is one JSON object and nothing else; None for NaN and keys that stand twice, too."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(text, parse_constant=_refuse, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse(name: str) -> Any:
    raise ValueError(name)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key stands twice")
    return values


def _same(left: Any, right: Any) -> bool:
    """Equality of JSON values; Python alone would call True and 1 the same."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)


def _reference_number(reference: str) -> Decimal | None:
    text = reference.rsplit(_MARK, 1)[-1].strip().removeprefix("$").removesuffix("%").strip()
    match = _NUMBER.fullmatch(text)
    return _decimal(match) if match else None


def _last_number(text: str) -> Decimal | None:
    if _MARK in text:
        match = _NUMBER.search(text.rsplit(_MARK, 1)[1])
        return _decimal(match) if match else None
    found = list(_NUMBER.finditer(text))
    return _decimal(found[-1]) if found else None


def _decimal(match: re.Match[str]) -> Decimal:
    return Decimal(match.group().replace(",", ""))


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(".")
