"""Advantages by comparing the samples of one prompt, and what of a group is worth learning from.

Scores are (A,), the S samples of a prompt beside each other; NaN is a score that is not known.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def grouped(scores: Tensor, samples: int) -> Tensor:
    """(G, S). Raises ValueError where the answers do not come to whole groups."""
    if samples < 1 or scores.numel() % samples:
        raise ValueError(f"{scores.numel()} answers are no whole groups of {samples}")
    return scores.view(-1, samples)


def rloo(scores: Tensor, samples: int) -> Tensor:
    """(A,) score less the mean of the other samples' scores (Kool et al. 2019; Ahmadian et al. 2024, RLOO).

    0 for an unknown score and for one without a known sibling.
    """
    rows = grouped(scores, samples)
    others = (~rows.isnan()).sum(1, keepdim=True) - 1
    baseline = (rows.nansum(1, keepdim=True) - rows) / others  # 0 / 0 without a known sibling
    return (rows - baseline).nan_to_num(nan=0.0).view(-1)


def relative(scores: Tensor, samples: int, *, scale: Literal["group", "batch", "none"] = "group") -> Tensor:
    """(A,) score less the mean of its group, divided by a standard deviation (of a sample, plus 1e-4 as in TRL).

    group: that of the group, GRPO (Shao et al. 2024, section 4.1.2). batch: that of all scores (Liu et al. 2025, "Part
    I: Tricks or traps?"). none: not divided, Dr. GRPO (Liu et al. 2025, "Understanding R1-Zero-like training", section
    3). 0 for an unknown score and where no deviation can be told.
    """
    rows = grouped(scores, samples)
    centred = rows - rows.nanmean(1, keepdim=True)
    if scale == "group":
        centred = centred / (_deviation(rows) + 1e-4)
    elif scale == "batch":
        centred = centred / (_deviation(rows.reshape(1, -1)) + 1e-4)
    return centred.nan_to_num(nan=0.0).reshape(-1)


def _deviation(rows: Tensor) -> Tensor:
    """(R, 1) standard deviation of the known scores of each row, with n - 1; NaN below two."""
    known = (~rows.isnan()).sum(1, keepdim=True)
    squares = (rows - rows.nanmean(1, keepdim=True)).square().nansum(1, keepdim=True)
    return (squares / (known - 1)).sqrt().where(known > 1, torch.nan)


def level(scores: Tensor, samples: int) -> Tensor:
    """(G,) bool: groups whose known scores are all the same, or fewer than two: they teach nothing.

    DAPO leaves them out and draws others (dynamic sampling: Yu et al. 2025, section 3.2).
    """
    rows = grouped(scores, samples)
    highest = rows.nan_to_num(nan=-torch.inf).amax(1)
    return ~(highest > rows.nan_to_num(nan=torch.inf).amin(1))


def best_and_worst(scores: Tensor, samples: int) -> Tensor:
    """(P, 2) int64: of each group that is not :func:`level` the answers with the highest and the lowest score.

    The pairs of online DPO (Guo et al. 2024, with two samples). Of equals the first.
    """
    rows = grouped(scores, samples)
    best = rows.nan_to_num(nan=-torch.inf).argmax(1)
    worst = rows.nan_to_num(nan=torch.inf).argmin(1)
    start = torch.arange(rows.shape[0], device=rows.device) * samples
    return torch.stack([start + best, start + worst], 1)[~level(scores, samples)]
