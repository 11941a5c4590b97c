"""Which answers of a rollout an optimizer step learns from.

Letters: A answers of the rollout, S samples of a prompt, M mini-batches of a pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def mini_batches(
    counted: Sequence[int], *, answers: int, samples: int, size: int, seed: int, rollout: int, epoch: int
) -> list[list[int]]:
    """The answers that take part, spread over M = answers / size mini-batches in an order of this pass's own.

    Whole prompts stay together where ``size`` holds a whole number of them, so that a prompt is read once for its
    answers; within a mini-batch answers are ascending. Where answers were left out mini-batches are smaller, as equal
    as they can be, and some may be empty: their number is that of a full rollout, so that the steps of a run are known
    before it begins.

    Args:
        counted: places of the answers that take part, ascending, in [0, answers).
        answers: A, a multiple of ``size``; the S answers to a prompt are adjacent.
        epoch: which pass over the rollout.
    """
    together = samples if size % samples == 0 else 1
    units: dict[int, list[int]] = {}
    for place in counted:
        units.setdefault(place // together, []).append(place)
    chances = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, rollout, epoch])))
    order = [list(units)[at] for at in chances.permutation(len(units))]
    count = answers // size
    # As equal as units allow: each goes to the mini-batch that ends where its place among all of them lies.
    parts = [order[len(order) * at // count : len(order) * (at + 1) // count] for at in range(count)]
    return [sorted(place for unit in part for place in units[unit]) for part in parts]
