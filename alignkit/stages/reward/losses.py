"""What a reward model is taught with: pure functions of rewards, one number a row.

B rows; rewards in any floating format, best fp32.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: Tensor | None = None, *, center: float = 0.0) -> Tensor:
    """(B,) -log σ(r_chosen - r_rejected - m) + center · (r_chosen + r_rejected)².

    Bradley and Terry 1952 as a loss: Ouyang et al. 2022, equation 1. The margin m (B,): Touvron et al. 2023, equation
    2. The second term: Eisenstein et al. 2023, section 2.1; without it a constant may be added to all rewards.
    """
    difference = chosen - rejected if margin is None else chosen - rejected - margin
    losses = -F.logsigmoid(difference)
    return losses + center * (chosen + rejected) ** 2 if center else losses


def squared_error(rewards: Tensor, scores: Tensor) -> Tensor:
    """(B,) (r - score)²: the reward becomes the score that is to be expected."""
    return (rewards - scores) ** 2


def cross_entropy(rewards: Tensor, wanted: Tensor) -> Tensor:
    """(B,) -log σ(r) where an answer was wanted (bool), -log σ(-r) where not: the reward is its log odds."""
    signs = wanted.to(rewards.dtype) * 2 - 1
    return -F.logsigmoid(signs * rewards)
