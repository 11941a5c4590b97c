"""The rows of a schedule of windows, in the one order in which all of its steps take them.

Every window has packed rows of its own, cut from the same training rows. What step 17 takes, and which positions its
tokens get, is a function of the seed and of the place in that order alone, so a resumed run goes on exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alignkit.data.batching import RowOrder, flatten
from alignkit.data.mixing.packing import Blocks, best_fit
from alignkit.data.rows import UNTRAINED, Encoded
from alignkit.stages.extend_context.positions import plain_positions, skipped_positions
from alignkit.training.rows import TrainingRows


@dataclass(frozen=True)
class Window:
    """One part of the schedule, resolved: rows of at most ``tokens``, for positions below ``length``."""

    length: int
    tokens: int
    """Longest document."""
    room: int
    """Tokens that documents are packed to."""
    theta: float | None
    steps: int | None
    """None: as many as the passes over the rows need."""


@dataclass(frozen=True)
class Cut:
    """Tokens ``start`` to ``end`` of training row ``row``."""

    row: int
    start: int
    end: int


@dataclass(frozen=True)
class Part:
    """A window with its documents and the packed rows that they fill."""

    window: Window
    cuts: list[Cut]
    blocks: list[list[int]]
    """Packed rows: numbers of their documents."""
    steps: int
    fill: float
    """Share of the room that tokens take."""
    left_out: int
    """Rows that are longer and cannot be cut, since they are not text alone."""


@dataclass(frozen=True)
class Draw:
    """What one place in the order holds: the documents of a packed row, and where it stands."""

    number: int
    part: int
    documents: list[Encoded]


def cut_rows(rows: Sequence[Encoded], lengths: NDArray[Any], tokens: int) -> tuple[list[Cut], int]:
    """Documents of at most ``tokens`` tokens out of rows: short ones as they are, longer texts in pieces of that length
    and a rest. Rows with tokens that carry no loss (conversations) are not cut but left out; how many, comes second.
    """
    cuts: list[Cut] = []
    left_out = 0
    for number, length in enumerate(lengths.tolist()):
        if length <= tokens:
            cuts.append(Cut(number, 0, length))
        elif UNTRAINED in rows[number].labels[1:]:
            left_out += 1
        else:
            # A rest of one token predicts nothing.
            cuts += [Cut(number, at, min(at + tokens, length)) for at in range(0, length, tokens) if length - at > 1]
    return cuts, left_out


def part_of(
    rows: Sequence[Encoded], lengths: NDArray[Any], window: Window, *, batch: int, epochs: float, pack: bool, seed: int
) -> Part:
    """The packed rows of a window and the steps that they are trained for. Raises ValueError where none are left."""
    cuts, left_out = cut_rows(rows, lengths, window.tokens)
    if not cuts:
        raise ValueError(f"no row fits into {window.tokens} tokens")
    sizes = np.array([cut.end - cut.start for cut in cuts])
    if pack:
        packed: Blocks = best_fit(sizes, window.room, seed=seed)
        blocks, fill = [block.tolist() for block in packed], packed.fill
    else:
        blocks, fill = [[number] for number in range(len(cuts))], 1.0
    steps = window.steps if window.steps is not None else max(1, math.ceil(epochs * len(blocks) / batch))
    return Part(window, cuts, blocks, steps, fill, left_out)


class Curriculum(TrainingRows):
    """All draws of a schedule: ``batch`` for each step, those of the first window first."""

    def __init__(self, rows: Sequence[Encoded], parts: Sequence[Part], *, batch: int, seed: int) -> None:
        super().__init__(rows)
        self.parts = list(parts)
        self.batch, self.seed = batch, seed
        self.ends = np.cumsum([part.steps * batch for part in parts])
        self._orders: dict[tuple[int, int], NDArray[np.int64]] = {}

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each draw, (n,)."""
        found = []
        for number, part in enumerate(self.parts):
            sizes = np.array([sum(part.cuts[cut].end - part.cuts[cut].start for cut in block) for block in part.blocks])
            count = part.steps * self.batch
            found.append(sizes[[self._block(number, place) for place in range(count)]])
        return np.concatenate(found)

    @property
    def steps(self) -> int:
        """Optimizer steps of all windows."""
        return sum(part.steps for part in self.parts)

    def part_at(self, step: int) -> int:
        """The window that is trained in the step after ``step`` steps."""
        ends = np.cumsum([part.steps for part in self.parts])
        return min(int(np.searchsorted(ends, step, side="right")), len(self.parts) - 1)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Draw:
        number = int(np.searchsorted(self.ends, index, side="right"))
        part = self.parts[number]
        place = index - (int(self.ends[number - 1]) if number else 0)
        block = part.blocks[self._block(number, place)]
        return Draw(index, number, [self._document(part.cuts[cut]) for cut in block])

    def _block(self, number: int, place: int) -> int:
        """The packed row at a place within a window: every pass in an order of its own."""
        blocks = len(self.parts[number].blocks)
        turn, rest = divmod(place, blocks)
        key = number, turn
        if key not in self._orders:
            self._orders[key] = np.random.default_rng([self.seed, number, turn]).permutation(blocks)
        return int(self._orders[key][rest])

    def _document(self, cut: Cut) -> Encoded:
        row: Encoded = self.rows[cut.row]
        if cut.start == 0 and cut.end == len(row):
            return row
        labels = row.labels[cut.start : cut.end]
        return Encoded(
            row.input_ids[cut.start : cut.end],
            [UNTRAINED, *labels[1:]],
            f"{row.where}, tokens {cut.start} to {cut.end}",
            None if row.weights is None else row.weights[cut.start : cut.end],
        )


class InOrder(RowOrder):
    """The order of a curriculum: it is mixed already."""

    def order(self) -> NDArray[np.int64]:
        """0, 1, 2 …"""
        return np.arange(len(self), dtype=np.int64)


def curriculum_collator(
    curriculum: Curriculum, *, joined: bool, chunks: int | None
) -> Callable[[Sequence[Any]], dict[str, Any]]:
    """Draws to one flat batch, as ``flatten`` makes it: (1, T) each, and ``document_lengths``.

    ``joined``: a packed row counts as one document, with attention all through it. ``chunks``: positions skip ahead
    within each document, up to the window (None: they do not).
    """
    plain = flatten()

    def collate(draws: Sequence[Any]) -> dict[str, Any]:
        batch = plain([document for draw in draws for document in draw.documents])
        lengths: list[int] = []
        positions: list[NDArray[np.int64]] = []
        for draw in draws:
            own = [len(document) for document in draw.documents]
            own = [sum(own)] if joined else own
            lengths += own
            if chunks is None:
                positions.append(plain_positions(own))
                continue
            window = curriculum.parts[draw.part].window.length
            generator = np.random.default_rng([curriculum.seed, draw.number])
            positions += [skipped_positions(length, window, chunks, generator) for length in own]
        batch["document_lengths"] = lengths
        batch["position_ids"] = torch.from_numpy(np.concatenate(positions)).unsqueeze(0)  # (1, T)
        return batch

    return collate
