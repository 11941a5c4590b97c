"""Random draws that give the same result in every process and under every version of Python.

Only ``random.Random.random`` is promised to stay as it is between Python versions, so everything here is
made of it; ``random.choice`` and ``random.shuffle`` are not used.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Generic, Literal, TypeVar

Split = Literal["train", "heldout"]

T = TypeVar("T")

HELDOUT_DIVISOR = 7
"""Every number in a held-out row is divisible by it, and no number in a training row is."""


def below(rng: random.Random, limit: int) -> int:
    """A whole number in ``[0, limit)``."""
    return int(rng.random() * limit)


def pick(rng: random.Random, items: Sequence[T]) -> T:
    """One of ``items``, each as likely as the others."""
    return items[below(rng, len(items))]


def number(rng: random.Random, split: Split, low: int, high: int) -> int:
    """A number in ``[low, high)`` that the other split can never draw."""
    while True:
        drawn = low + below(rng, high - low)
        if (drawn % HELDOUT_DIVISOR == 0) == (split == "heldout"):
            return drawn


class Deck(Generic[T]):
    """Deals ``items`` in random order, each once before any comes again: even use in few rows."""

    def __init__(self, rng: random.Random, items: Sequence[T]) -> None:
        self._rng = rng
        self._items = tuple(items)
        self._left: list[T] = []

    def deal(self) -> T:
        """The next item; shuffles anew when all were dealt."""
        if not self._left:
            self._left = list(self._items)
        # Removing a random item each time is a Fisher-Yates shuffle, done as far as it is needed.
        at = below(self._rng, len(self._left))
        self._left[at], self._left[-1] = self._left[-1], self._left[at]
        return self._left.pop()
