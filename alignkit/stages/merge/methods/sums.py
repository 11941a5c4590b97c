"""Sums of chunks in float32, block by block so that the work stays in the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from alignkit.stages.merge.methods.method import Doubles, Floats

BLOCK = 1 << 15
"""Elements worked on at a time: 128 kB of float32, so that a few of them fit in a core's second-level cache."""

SMALLEST_SUM = 1e-8
"""A sum of weights nearer to zero than this is not divided by."""


def blocks(length: int) -> Iterator[slice]:
    """0 to length in steps of BLOCK."""
    for begin in range(0, length, BLOCK):
        yield slice(begin, min(begin + BLOCK, length))


def weighted_sum(chunks: Sequence[Floats], weights: Sequence[float] | Doubles) -> Floats:
    """Σ wᵢ·xᵢ, left to right. chunks: (n,) each; returns (n,)."""
    total = np.empty(len(chunks[0]), np.float32)
    factors = [np.float32(one) for one in weights]
    room = np.empty(min(BLOCK, len(total)), np.float32)
    for block in blocks(len(total)):
        out = total[block]
        product = room[: len(out)]
        np.multiply(chunks[0][block], factors[0], out=out)
        for chunk, factor in zip(chunks[1:], factors[1:], strict=True):
            np.multiply(chunk[block], factor, out=product)
            out += product
    return total


def weighted_deltas(base: Floats, chunks: Sequence[Floats], weights: Sequence[float] | Doubles) -> Floats:
    """x₀ + Σ wᵢ·(xᵢ − x₀): exactly x₀ where no model differs from it. base, chunks: (n,) each; returns (n,)."""
    total = np.empty(len(base), np.float32)
    factors = [np.float32(one) for one in weights]
    room = np.empty(min(BLOCK, len(total)), np.float32)
    for block in blocks(len(total)):
        out, below = total[block], base[block]
        delta = room[: len(out)]
        for place, (chunk, factor) in enumerate(zip(chunks, factors, strict=True)):
            target = delta if place else out
            np.subtract(chunk[block], below, out=target)
            target *= factor
            if place:
                out += delta
        out += below
    return total


def shares(weights: Sequence[float], normalize: bool) -> list[float]:
    """The weights, divided by their sum where ``normalize`` asks for it and the sum is not zero."""
    total = sum(weights)
    if not normalize or abs(total) < SMALLEST_SUM:
        return list(weights)
    return [one / total for one in weights]
