"""What can be read off an answer's text: a pattern, its length, repetitions."""

from __future__ import annotations

import re
from collections.abc import Iterator

from alignkit.console.bounds import found
from alignkit.errors import Fault
from alignkit.rewards.judged import EachReward, Reward
from alignkit.rewards.kinds.kind import Kind, Making
from alignkit.rewards.recipe import RewardSource

NGRAM = 3


def _pattern(source: RewardSource, making: Making) -> Reward:
    pattern = re.compile(source.pattern or "", re.DOTALL)
    return EachReward("regex", lambda row: float(found(pattern, row.answer)))


def _pattern_faults(source: RewardSource, where: str) -> Iterator[Fault]:
    try:
        re.compile(source.pattern or "")
    except re.error as error:
        yield Fault(where=f"{where}.pattern", what=f"is no regular expression: {error}", instead="Correct it.")


def length(answer: str, unit: str = "words", target: int | None = None) -> float:
    """Words or characters; with a target 1 at the target, falling by |n - target| / target, and never below -1."""
    count = len(answer.split()) if unit == "words" else len(answer)
    return float(count) if target is None else max(-1.0, 1.0 - abs(count - target) / target)


def _length(source: RewardSource, making: Making) -> Reward:
    return EachReward("length", lambda row: length(row.answer, source.unit or "words", source.target))


def repetition(answer: str, ngram: int = NGRAM) -> float:
    """Minus the share of runs of `ngram` words that stood in the answer before: 0 where nothing is said twice."""
    words = answer.casefold().split()
    runs = [tuple(words[at : at + ngram]) for at in range(len(words) - ngram + 1)]
    return len(set(runs)) / len(runs) - 1.0 if runs else 0.0


def _repetition(source: RewardSource, making: Making) -> Reward:
    return EachReward("repetition", lambda row: repetition(row.answer, source.ngram or NGRAM))


REGEX = Kind(
    name="regex",
    about="1 where the pattern is found in the answer, else 0 (. matches line ends too)",
    make=_pattern,
    reads=("pattern",),
    needs=("pattern",),
    example="Write {name: regex, pattern: '…'}.",
    check=_pattern_faults,
)
LENGTH = Kind(
    name="length",
    about="words or characters, or how near these are to a target (at most 1)",
    make=_length,
    reads=("target", "unit"),
)
REPETITION = Kind(
    name="repetition",
    about="minus the share of word n-grams that stood in the answer before",
    make=_repetition,
    reads=("ngram",),
)
