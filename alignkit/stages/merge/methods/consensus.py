"""Task vectors, thinned or not, are summed: plainly, or with a vote on the sign of each element.

The vote is the second and third step of Yadav et al. 2023, "TIES-merging" (arXiv 2306.01708), section 4.2, "elect" and
"disjoint merge", with weights: the elected sign is that of Σ wᵢ·τ̂ᵢ, and the mean that of the elements with this sign,
weighted by wᵢ. A sum of exactly zero elects plus, as in mergekit (the paper leaves it open; its code elects what most
of the vector has). Weights need not be positive: a negative one votes for the other sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from alignkit.stages.merge.methods.method import Floats, Merging
from alignkit.stages.merge.methods.order import Series
from alignkit.stages.merge.methods.sums import BLOCK, SMALLEST_SUM, blocks, shares
from alignkit.stages.merge.methods.thinning import Thinning


class TaskVectors(Merging):
    """θ₀ + λ·Σ wᵢ·thin(θᵢ − θ₀); with ``elect``, only over the models whose sign is the elected one."""

    def __init__(
        self, thinning: Thinning, weights: Sequence[float], *, elect: bool, normalize: bool, scaling: float
    ) -> None:
        self.thinning = thinning
        self.scans = thinning.scans
        self.rows = thinning.rows
        # With a vote the sum of the weights differs from element to element, else it is known here.
        self.weights = [np.float32(one) for one in shares(weights, normalize and not elect)]
        self.elect = elect
        self.normalize = normalize
        self.scaling = np.float32(scaling)

    def scan(self, number: int, start: int, chunks: Sequence[Floats], base: Floats | None) -> Any:
        assert base is not None
        return self.thinning.scan(number, start, len(base), [difference(chunk, base) for chunk in chunks])

    def fold(self, number: int, total: Any, part: Any) -> Any:
        return self.thinning.fold(number, total, part)

    def gather(self, number: int, parts: list[Any]) -> None:
        if parts:  # an empty tensor has no chunks
            self.thinning.settle(number, reduce(lambda total, part: self.fold(number, total, part), parts))

    def combine(self, start: int, chunks: Sequence[Floats], base: Floats | None) -> Floats:
        assert base is not None
        thin = self.thinning.open(start, len(base), [difference(chunk, base) for chunk in chunks])
        out = np.empty(len(base), np.float32)
        rooms = np.empty((len(chunks), min(BLOCK, len(base))), np.float32)
        for block in blocks(len(base)):
            below = base[block]
            deltas = [room[: len(below)] for room in rooms]
            for model, delta in enumerate(deltas):
                np.subtract(chunks[model][block], below, out=delta)
                thin(model, block, delta)
                if self.weights[model] != 1.0:
                    delta *= self.weights[model]
            total = out[block]
            np.copyto(total, deltas[0])
            for delta in deltas[1:]:
                total += delta
            if self.elect:
                elected(deltas, total, self.weights if self.normalize else None)
            if self.scaling != 1.0:
                total *= self.scaling
            total += below
        return out


def difference(chunk: Floats, base: Floats) -> Series:
    """chunk − base, block by block."""

    def fill(block: slice, room: Floats) -> None:
        np.subtract(chunk[block], base[block], out=room)

    return fill


def elected(deltas: Sequence[Floats], total: Floats, weights: Sequence[np.float32] | None) -> None:
    """Turns ``total``, the sum of the weighted deltas, into the sum over those that have its sign, in place.

    With ``weights``, divided by the weights of these: a mean. deltas: (n,) each; total: (n,).
    """
    plus = total >= 0
    minus = ~plus
    total.fill(0)
    divisor = np.zeros_like(total)
    share = np.empty_like(total)
    for model, delta in enumerate(deltas):
        agrees = delta > 0
        if weights is None:
            np.equal(agrees, plus, out=agrees)  # counts zeros in where minus was elected, which adds nothing
        else:
            agrees &= plus
            agrees |= (delta < 0) & minus
        np.copyto(share, agrees)
        delta *= share
        total += delta
        if weights is not None:
            if weights[model] != 1.0:
                share *= weights[model]
            divisor += share
    if weights is not None:
        np.copyto(share, np.abs(divisor) < SMALLEST_SUM)
        divisor += share  # where nobody agrees the sum is 0 already
        total /= divisor
