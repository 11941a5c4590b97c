"""An epoch shared by several processes: which rows of each optimizer step this one takes.

A step's rows are the ones that a single process would take, cut into the same micro-batches; these are dealt to the
processes in turn. A step whose micro-batches do not go round (the last of an epoch) gives some process a stand-in: rows
that pass through the model because all processes have to move together, and count for nothing.

Letters: B rows of a step, m rows of a micro-batch, W processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch.utils.data

from alignkit.data.batching import Collator, RowOrder

ABSENT = "absent"
"""Key of a batch that is a stand-in."""
FIRST_ROW = "first_row"
"""Key of a batch: where its rows begin among those of the step."""


class Shares(torch.utils.data.Sampler[list[int]]):
    """This process's micro-batches of an epoch, as lists: the place in the step, -1 for a stand-in, then the rows."""

    def __init__(self, order: RowOrder, *, size: int, micro: int, rank: int, world: int) -> None:
        self.order, self.size, self.micro, self.rank, self.world = order, size, micro, rank, world

    def set_epoch(self, epoch: int) -> None:
        """The pass whose order comes next."""
        self.order.set_epoch(epoch)

    @property
    def batch_sampler(self) -> Shares:
        """transformers looks here for what wants to know the epoch."""
        return self

    def __len__(self) -> int:
        full, rest = divmod(len(self.order), self.size)
        return full * self._rounds(self.size) + self._rounds(rest)

    def _rounds(self, rows: int) -> int:
        """Micro-batches of each process for a step of so many rows."""
        return -(-rows // (self.micro * self.world))

    def __iter__(self) -> Iterator[list[int]]:
        rows = list(self.order)
        for start in range(0, len(rows), self.size):
            step = rows[start : start + self.size]
            for turn in range(self._rounds(len(step))):
                at = (turn * self.world + self.rank) * self.micro
                yield [at, *step[at : at + self.micro]] if at < len(step) else [-1, step[0]]


class _Placed(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Rows by number, fetched a micro-batch at a time together with its place in the step."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __getitems__(self, asked: Sequence[int]) -> tuple[int, list[Any]]:
        return asked[0], [self.rows[number] for number in asked[1:]]


class Loader(torch.utils.data.DataLoader):  # type: ignore[type-arg]
    """The batches of one process."""

    def set_epoch(self, epoch: int) -> None:
        """The pass whose order comes next; the trainer calls it."""
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


def loader(rows: Any, shares: Shares, collate: Collator, **settings: Any) -> Loader:
    """What the trainer iterates: batches as ``collate`` makes them, with ``first_row``, stand-ins with ``absent``."""
    return Loader(_Placed(rows), batch_sampler=shares, collate_fn=_placing(collate), **settings)


def _placing(collate: Collator) -> Callable[[tuple[int, list[Any]]], dict[str, Any]]:
    def placed(found: tuple[int, list[Any]]) -> dict[str, Any]:
        at, rows = found
        return {**collate(rows), FIRST_ROW: max(0, at), **({ABSENT: True} if at < 0 else {})}

    return placed


def present(batches: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that are no stand-ins."""
    return [batch for batch in batches if ABSENT not in batch]
