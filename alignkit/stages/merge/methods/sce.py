"""SCE: select elements in which the models differ, calculate each model's share, erase minority signs.

Wan et al. 2024, "FuseChat: knowledge fusion of chat models" (arXiv 2408.07990), section 3.3, algorithm 1. With
δⱼ the task vectors of one tensor:

1. Select: the ``topk`` elements with the largest variance over the models stay, the others are 0 in all models. The
   share is of the elements whose variance is not 0 (rounded down, at least one), equal ones in the order of the tensor.
   With topk = 1 all elements stay.
2. Calculate: cⱼ = Σ δⱼ² / Σⱼ Σ δⱼ², over the elements that stayed; equal shares where all of them are 0.
3. Erase: elements whose sign is not that of Σⱼ δⱼ are dropped (a sum of zero is plus).

The result is θ₀ + Σ cⱼ·δⱼ / Σ cⱼ over the models that are left at that element, as in mergekit; a model whose element
is 0 is not left.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import prod
from typing import Any

import numpy as np

from alignkit.stages.merge.methods.consensus import elected
from alignkit.stages.merge.methods.method import Doubles, Floats, Merging, Method, Parameter, Values, number
from alignkit.stages.merge.methods.order import Cut, Limits, coarse, inside, magnitudes, series, share_of
from alignkit.stages.merge.methods.sums import blocks


def variance(deltas: Sequence[Floats]) -> Floats:
    """(n,) population variance over the models, from (n,) each."""
    count = np.float32(1.0 / len(deltas))
    mean = reduce(np.add, deltas) * count
    return np.asarray(reduce(np.add, [np.square(delta - mean) for delta in deltas]) * count, np.float32)


class SCE(Merging):
    """Passes: counts of variances, counts within a bin (both only for topk < 1), sums of squares."""

    def __init__(self, topk: float, size: int) -> None:
        self.topk = topk
        self.size = size
        self.selects = topk < 1.0
        self.scans = 3 if self.selects else 1
        self.cut = Cut(size, size)
        self.weights: list[np.float32] = []

    def scan(self, number: int, start: int, chunks: Sequence[Floats], base: Floats | None) -> Any:
        assert base is not None
        if number == self.scans - 1:
            return self._squares(start, chunks, base)
        variances = _variances(chunks, base)
        if number == 0:
            return coarse(len(base), series(variances)), int(np.count_nonzero(variances))
        return [(start, inside(len(base), series(variances), [self.cut]))]

    def fold(self, number: int, total: Any, part: Any) -> Any:
        if self.selects and number == 0:
            return total[0] + part[0], total[1] + part[1]
        total += part  # a list with an entry for each chunk, or sums
        return total

    def gather(self, number: int, parts: list[Any]) -> None:
        if not parts:
            return
        total = reduce(lambda one, more: self.fold(number, one, more), parts)
        if number == self.scans - 1:
            whole = float(total.sum())
            self.weights = [np.float32(one / whole if whole > 0 else 1.0 / len(total)) for one in total]
        elif number == 0:
            counts, varied = total
            self.cut = Cut(share_of(self.topk, varied), self.size)
            self.cut.locate(counts)
        else:
            self.cut.settle(total)

    def combine(self, start: int, chunks: Sequence[Floats], base: Floats | None) -> Floats:
        assert base is not None
        limits = self._limits(start, chunks, base)
        out = np.empty(len(base), np.float32)
        for block in blocks(len(base)):
            deltas = self._selected(limits, block, chunks, base)
            # The vote is on the task vectors as they are, the mean on the weighted ones.
            vote = reduce(np.add, deltas)
            for delta, factor in zip(deltas, self.weights, strict=True):
                delta *= factor
            elected(deltas, vote, self.weights)
            np.add(vote, base[block], out=out[block])
        return out

    def _squares(self, start: int, chunks: Sequence[Floats], base: Floats) -> Doubles:
        """(m,) Σ δ² over the selected elements of the chunk."""
        limits = self._limits(start, chunks, base)
        total = np.zeros(len(chunks))
        for block in blocks(len(base)):
            deltas = [delta.astype(np.float64) for delta in self._selected(limits, block, chunks, base)]
            total += [np.einsum("n,n->", delta, delta) for delta in deltas]
        return total

    def _limits(self, start: int, chunks: Sequence[Floats], base: Floats) -> Limits:
        return self.cut.limits(start, len(base), lambda block, room: np.copyto(room, _variances(chunks, base)[block]))

    def _selected(self, limits: Limits, block: slice, chunks: Sequence[Floats], base: Floats) -> list[Floats]:
        """The task vectors in a block, 0 where they are not selected."""
        deltas = [chunk[block] - base[block] for chunk in chunks]
        if self.selects:
            kept = limits.reached(block.start, magnitudes(variance(deltas))).astype(np.float32)
            for delta in deltas:
                delta *= kept
        return deltas


def _variances(chunks: Sequence[Floats], base: Floats) -> Floats:
    """(n,) variances of a whole chunk, in the very steps of ``combine``: a rounding must not move an element."""
    found = np.empty(len(base), np.float32)
    for block in blocks(len(base)):
        found[block] = variance([chunk[block] - base[block] for chunk in chunks])
    return found


def _sce(shape: tuple[int, ...], values: Values, key: bytes) -> Merging:
    return SCE(number(values, "topk"), prod(shape))


SCE_METHOD = Method(
    name="sce",
    about="task vectors weighted by their squares, where the models differ most, over those that agree on the sign",
    paper="Wan et al. 2024, arXiv 2408.07990, section 3.3",
    start=_sce,
    models=(2, None),
    base="needed",
    parameters={
        "topk": Parameter(default=1.0, low=0.0, high=1.0, about="share of the elements with the largest variance"),
    },
)
