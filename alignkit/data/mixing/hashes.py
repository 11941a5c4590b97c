"""Content hashes as arrays: which are equal, which are smallest.

A hash is two 64-bit numbers, the first the more significant (`store.layout.hash_numbers`), so that rows sort here as
their 16 bytes do in `holdout.choose`. n rows: (n, 2) uint64.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Hashes: TypeAlias = NDArray[np.uint64]
Indices: TypeAlias = NDArray[np.int64]

NONE = -1
"""Index that stands for no row."""


def ranked(hashes: Hashes) -> Indices:
    """Row indices from the smallest hash to the largest; rows with equal hashes in their order, (n,) int64."""
    return np.lexsort((hashes[:, 1], hashes[:, 0])).astype(np.int64, copy=False)


def smallest(hashes: Hashes, count: int) -> Indices:
    """The `count` rows with the smallest hashes, as ascending indices.

    Which contents these are depends on the contents alone, not on the order of the rows.
    """
    if count >= len(hashes):
        return np.arange(len(hashes), dtype=np.int64)
    # Rows beyond the count-th smallest first word cannot be meant; the others are few enough to sort in full.
    bound = np.partition(hashes[:, 0], count - 1)[count - 1] if count else np.uint64(0)
    near = np.flatnonzero(hashes[:, 0] <= bound)
    return np.sort(near[ranked(hashes[near])[:count]]).astype(np.int64, copy=False)


def first_equal(hashes: Hashes) -> Indices:
    """For each row the first one with its hash, itself where it is the first, (n,) int64."""
    order = ranked(hashes)
    ordered = hashes[order]
    begins = np.ones(len(order), dtype=np.bool_)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    group = np.cumsum(begins) - 1  # (n,): number of the run of equal hashes
    found = np.empty(len(order), dtype=np.int64)
    found[order] = order[begins][group]
    return found


def equal_among(hashes: Hashes, others: Hashes) -> Indices:
    """For each row the first of `others` with its hash, or -1, (n,) int64."""
    if not len(others):
        return np.full(len(hashes), NONE, dtype=np.int64)
    first = first_equal(np.concatenate([others, hashes]))[len(others) :]
    return np.where(first < len(others), first, NONE).astype(np.int64, copy=False)
