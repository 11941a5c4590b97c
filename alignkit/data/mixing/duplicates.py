"""Rows that are said twice: which of them are left out of training, and in what words a person is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alignkit.data.mixing.hashes import NONE, Hashes, Indices, equal_among, first_equal
from alignkit.data.mixing.near import Comparable, near, near_among

__all__ = ["Cleaned", "clean", "exact", "near", "near_among"]

SAME = "says the same as an earlier row (data.dedup)"
NEARLY = "says nearly the same as an earlier row (data.dedup)"
HELD_OUT = "says the same as a held-out row (data.dedup)"
NEARLY_HELD_OUT = "says nearly the same as a held-out row (data.dedup)"


@dataclass(frozen=True)
class Cleaned:
    """What deduplication leaves of n training rows."""

    keep: NDArray[np.bool_]
    """(n,): the rows that stay."""
    twin: Indices
    """(n,): for a row that goes, the training row that says the same, or -1 where that is a held-out one."""
    held_out_twin: Indices
    """(n,): the held-out row that a training row says the same as, or -1."""
    dropped: Counter[str] = field(default_factory=Counter)
    """How many rows go, by reason."""
    notes: list[str] = field(default_factory=list)
    """Sentences for a person: contamination of the held-out rows."""


def exact(hashes: Hashes) -> NDArray[np.bool_]:
    """Which rows stay when the first of equal ones does, (n,) bool; ``hashes``: (n, 2) uint64."""
    return np.equal(first_equal(hashes), np.arange(len(hashes)))


def clean(
    how: Literal["none", "exact", "near"],
    hashes: Hashes,
    held_out: Hashes,
    *,
    texts: Sequence[Comparable] | None = None,
    held_out_texts: Sequence[Comparable] | None = None,
    threshold: float = 0.8,
) -> Cleaned:
    """Find duplicates among n training rows, and training rows that stand among the m held-out ones.

    With "none" only equal held-out rows are looked for, and nothing is dropped. Held-out rows always stay.

    Args:
        how: as `data.dedup`.
        hashes: content hashes of the training rows, (n, 2) uint64.
        held_out: the same of the held-out rows, (m, 2).
        texts: what the rows say (`near.comparable`), read by index; needed for "near".
        held_out_texts: the same of the held-out rows.
        threshold: as `data.dedup_threshold`.
    """
    count = len(hashes)
    twin = np.full(count, NONE, dtype=np.int64)
    among = equal_among(hashes, held_out)
    contaminated = among != NONE
    if how == "none":
        return Cleaned(np.ones(count, dtype=np.bool_), twin, among, Counter(), _contamination(contaminated, 0, False))
    reasons: Counter[str] = Counter({HELD_OUT: int(contaminated.sum())})
    keep = ~contaminated
    first = first_equal(hashes)
    repeated = keep & (first != np.arange(count))
    twin[repeated] = first[repeated]
    keep &= ~repeated
    reasons[SAME] = int(repeated.sum())
    if how == "near":
        if texts is None or held_out_texts is None:
            raise ValueError("near duplicates are told from the texts")
        left = np.flatnonzero(keep)
        found = near_among(_Chosen(texts, left), held_out_texts, threshold)
        among[left] = found
        keep[left[found != NONE]] = False
        reasons[NEARLY_HELD_OUT] = int((found != NONE).sum())
        left = np.flatnonzero(keep)
        alike = left[near(_Chosen(texts, left), threshold)]
        gone = alike != left
        twin[left[gone]] = alike[gone]
        keep[left[gone]] = False
        reasons[NEARLY] = int(gone.sum())
    dropped = Counter({reason: number for reason, number in reasons.items() if number})
    return Cleaned(keep, twin, among, dropped, _contamination(contaminated, reasons[NEARLY_HELD_OUT], True))


def _contamination(equal: NDArray[np.bool_], nearly: int, left_out: bool) -> list[str]:
    """The sentence about training rows that stand among the held-out ones, where there are any."""
    same = int(equal.sum())
    if not same + nearly:
        return []
    stand = "stands" if same + nearly == 1 else "stand"
    said = f"{same + nearly:,} training row{'' if same + nearly == 1 else 's'} {stand} among the held-out rows too"
    if nearly:
        said += f" ({nearly:,} of them nearly)"
    return [f"{said}: left out of training" if left_out else f"{said}: their scores will flatter"]


class _Chosen(Sequence[Comparable]):
    """Some rows of a sequence of texts, made when asked for."""

    def __init__(self, texts: Sequence[Comparable], rows: Indices) -> None:
        self.texts, self.rows = texts, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Comparable:  # type: ignore[override]
        return self.texts[int(self.rows[index])]
