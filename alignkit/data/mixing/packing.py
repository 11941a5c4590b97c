"""Best-fit packing: rows are put into blocks of at most so many tokens, none cut, little room left.

Best-fit decreasing (Johnson et al. 1974, "Worst-case performance bounds for simple one-dimensional packing algorithms",
section 2; for training: Ding et al. 2024, "Fewer truncations improve language modeling", section 2.2): the longest row
first, each into the fullest block that still takes it. No more than 11/9 of the fewest possible blocks, plus 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.data.mixing.hashes import Indices

WINDOW = 50
"""Batches whose rows are sorted by length together: enough for alike lengths, few enough to keep epochs mixed."""


@dataclass(frozen=True)
class Blocks:
    """n rows in B blocks; block b holds rows ``rows[offsets[b]:offsets[b + 1]]``."""

    offsets: Indices
    """(B + 1,)."""
    rows: Indices
    """(n,): every row once."""
    sizes: NDArray[np.int64]
    """(B,): tokens of each block."""
    capacity: int
    """Tokens that a block takes at most."""

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, block: int) -> Indices:
        """The rows of a block, (k,)."""
        if not 0 <= block < len(self):
            raise IndexError(f"block {block} of {len(self)}")
        return self.rows[self.offsets[block] : self.offsets[block + 1]]

    def __iter__(self) -> Iterator[Indices]:
        return (self[block] for block in range(len(self)))

    @property
    def fill(self) -> float:
        """Tokens over room, 0 to 1."""
        return float(self.sizes.sum() / max(1, len(self) * self.capacity))


def best_fit(lengths: Sequence[int] | NDArray[Any], capacity: int, *, seed: int = 0) -> Blocks:
    """Put rows into blocks of at most ``capacity`` tokens; O(n log n) with n rows.

    Rows of one length go in an order drawn from ``seed``, so that neighbours in a file do not fill a block together.

    Raises ValueError for a row that is empty or longer than a block: rows are never cut.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if len(sizes) and not 1 <= sizes.min() <= sizes.max() <= capacity:
        raise ValueError(f"rows of {sizes.min()} to {sizes.max()} tokens do not fit into blocks of {capacity}")
    mixed = np.random.default_rng(seed).permutation(len(sizes))
    order = mixed[np.argsort(-sizes[mixed], kind="stable")]  # (n,): longest first
    block_of = np.empty(len(sizes), dtype=np.int64)  # by place in `order`
    blocks = _place(sizes[order], capacity, block_of)
    # Back to one list of rows: blocks one after the other, within a block the longest row first.
    by_block = np.argsort(block_of, kind="stable")
    counts = np.bincount(block_of, minlength=blocks)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    rows = order[by_block].astype(np.int64, copy=False)
    return Blocks(offsets, rows, np.add.reduceat(sizes[rows], offsets[:-1]) if blocks else counts, capacity)


def _place(descending: NDArray[np.int64], capacity: int, block_of: NDArray[np.int64]) -> int:
    """Write the block of each row into ``block_of``; returns the number of blocks.

    Rows of one length are placed together: the fullest block that takes one takes as many of them as it can, since it
    stays the fullest. ``open_with``: blocks by the room they have left; bit r of ``rooms`` is set where there are any
    with room r, so that the least room that is enough is the lowest bit from the row's length on.
    """
    open_with: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0
    blocks = 0
    ends = np.flatnonzero(np.diff(descending)) + 1
    for start, end in zip([0, *ends.tolist()], [*ends.tolist(), len(descending)], strict=True):
        if start == end:
            break  # no rows at all
        length = int(descending[start])
        while start < end:
            enough = rooms >> length
            if not enough:
                break
            room = length + (enough & -enough).bit_length() - 1
            block = open_with[room].pop()
            if not open_with[room]:
                rooms &= ~(1 << room)
            count = min(room // length, end - start)
            block_of[start : start + count] = block
            start += count
            left = room - count * length
            if left:
                open_with[left].append(block)
                rooms |= 1 << left
        if start == end:
            continue
        # The others fill new blocks, each with as many as go in; all but the last are left with the same room.
        each = capacity // length
        numbers = blocks + np.arange(end - start) // each
        block_of[start:end] = numbers
        fresh = int(numbers[-1]) - blocks + 1
        last = end - start - (fresh - 1) * each
        for left, opened in (
            (capacity - each * length, range(blocks, blocks + fresh - 1)),
            (capacity - last * length, range(blocks + fresh - 1, blocks + fresh)),
        ):
            if left and len(opened):
                open_with[left].extend(opened)
                rooms |= 1 << left
        blocks += fresh
    return blocks


def by_length(order: NDArray[Any], lengths: NDArray[Any], batch: int) -> NDArray[Any]:
    """An order of rows in which those of a batch have similar lengths: cut into windows of `WINDOW` batches and sorted
    within each, longest first; rows of one length stay in order. (n,) -> (n,)."""
    windows = np.arange(len(order)) // (batch * WINDOW)
    return order[np.lexsort((-lengths[order].astype(np.int64, copy=False), windows))]


def padding(lengths: NDArray[Any], order: NDArray[Any], batch: int) -> float:
    """Share of a padded epoch that is padding, 0 to 1: each batch is as wide as its longest row."""
    if not len(order):
        return 0.0
    starts = np.arange(0, len(order), batch)
    widths = np.maximum.reduceat(lengths[order], starts).astype(np.int64)
    rows = np.diff(np.append(starts, len(order)))
    return 1 - int(lengths[order].sum(dtype=np.int64)) / int((widths * rows).sum())


def padding_report(
    lengths: Sequence[int] | NDArray[Any], batch: int, blocks: Blocks | None = None, *, seed: int = 0
) -> list[str]:
    """How much padding each layout leaves, a sentence each; ``batch``: rows that would be padded together."""
    sizes = np.asarray(lengths)
    if not len(sizes):
        return []
    random = np.random.default_rng(seed).permutation(len(sizes))
    plain, grouped = padding(sizes, random, batch), padding(sizes, by_length(random, sizes, batch), batch)
    lines = [
        f"padded in batches of {batch:,} random rows, {plain:.1%} of the tokens would be padding",
        f"padded in batches of {batch:,} rows of similar length (data.group_by_length): {grouped:.1%}",
    ]
    if blocks is not None:
        lines.insert(
            0,
            f"best-fit packing: {_counted(len(blocks.rows), 'row')} in {_counted(len(blocks), 'block')} of at most "
            f"{blocks.capacity:,} tokens, {blocks.fill:.1%} full, {1 - blocks.fill:.1%} left empty",
        )
    return lines


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
