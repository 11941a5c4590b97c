"""Whether an answer is right: compared as JSON, number or text, or as mathematics."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from alignkit.data.answers import matches
from alignkit.rewards.judged import EachReward, Judged, Reward
from alignkit.rewards.kinds.kind import Kind, Making
from alignkit.rewards.recipe import RewardSource

SECONDS = 3
"""For one comparison of two expressions: some that a model writes (10^10^10) take more than a life."""
_WORDS, _MATHS = re.compile(r"[^\W\d_]{3,}"), re.compile(r"[\d\\=+*/^<>($]")
MARK = "####"
"""What stands before the last line of a worked solution in GSM8K (Cobbe et al. 2021, appendix)."""


def right_answer(row: Judged, column: str | None) -> str | None:
    """What an answer is compared with, as text; None where the row has nothing of the kind."""
    if column is None:
        return row.reference
    value = row.columns.get(column)
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _known(row: Judged, column: str | None) -> str:
    found = right_answer(row, column)
    if found is None:
        raise ValueError(_lacking(column))
    return found


def _lacking(column: str | None) -> str:
    if column is not None:
        return f"compares with the column `{column}`, and the row has none"
    return "compares with the right answer, and the row has none that can be checked (a column `answer`)"


def _has_answer(source: RewardSource) -> Callable[[Judged], str | None]:
    return lambda row: _lacking(source.column) if right_answer(row, source.column) is None else None


def _exact(source: RewardSource, making: Making) -> Reward:
    return EachReward("exact", lambda row: float(matches(row.answer, _known(row, source.column))))


# --- mathematics -----------------------------------------------------------------------------------------------------


def _math(source: RewardSource, making: Making) -> Reward:
    def right(row: Judged) -> float:
        expected = parsed_reference(_known(row, source.column))
        if not expected:
            raise ValueError(_no_maths(_known(row, source.column)))
        return float(same_mathematics(row.answer, expected))

    return EachReward("math", right)


def parsed_reference(reference: str) -> list[Any]:
    """The right answer as math-verify reads it, [] for what is no mathematics. Of a worked solution what follows its
    last `####` counts. A bare expression (`x^2/2`) is read as LaTeX."""
    from math_verify import parse

    text = reference.rsplit(MARK, 1)[-1].strip()
    if _WORDS.search(text) and not _MATHS.search(text):
        return []  # a name would be read as a product of its letters
    marked = any(mark in text for mark in ("$", "%", "\\boxed", "\\(", "\\["))
    with _quiet():
        found: list[Any] = [] if marked else parse(f"${text}$", parsing_timeout=_seconds())
        if not _understood(found):
            found = parse(text, parsing_timeout=_seconds())
    return found if _understood(found) else []


def _understood(parsed: list[Any]) -> bool:
    """Whether there is more than the text: that comes back alone where it could not be read."""
    return any(not isinstance(one, str) for one in parsed)


def same_mathematics(answer: str, expected: list[Any]) -> bool:
    """Whether the last `\\boxed{}`, formula or number of an answer is what was expected: as numbers, symbolically, as
    sets, intervals or matrices (math-verify). What takes too long to compare is not the same."""
    from math_verify import parse, verify

    text = answer.rsplit(MARK, 1)[-1]
    with _quiet():
        found = parse(text, parsing_timeout=_seconds())
        return bool(found) and bool(verify(expected, found, timeout_seconds=_seconds()))


def _seconds() -> int | None:
    """math-verify interrupts itself by a signal, which only the main thread can."""
    return SECONDS if threading.current_thread() is threading.main_thread() else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what math-verify says of each expression that it cannot compare."""
    logger = logging.getLogger("math_verify")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _no_maths(reference: str) -> str:
    return f"compares mathematics, and the row's right answer is none: {reference[:80]!r}"


def _has_maths(source: RewardSource) -> Callable[[Judged], str | None]:
    lacks = _has_answer(source)

    def problem(row: Judged) -> str | None:
        missing = lacks(row)
        if missing is not None:
            return missing
        reference = _known(row, source.column)
        return None if parsed_reference(reference) else _no_maths(reference)

    return problem


EXACT = Kind(
    name="exact",
    about="1 where the answer is the right one (JSON, number or text), else 0",
    make=_exact,
    reads=("column",),
    reference=True,
    fits=_has_answer,
)
MATH = Kind(
    name="math",
    about="1 where the answer's last formula or number equals the right one as mathematics, else 0",
    make=_math,
    reads=("column",),
    reference=True,
    fits=_has_maths,
)
