"""The clipped surrogate and what surrounds it, token by token."""

from __future__ import annotations

from torch import Tensor

from alignkit.stages.dpo.losses.functions import exponential


def ratios(new: Tensor, old: Tensor) -> Tensor:
    """(N,) π_new/π_old of log-probabilities in nats; exactly 1 where they are the same, a tangent beyond e^30."""
    return exponential(new - old)


def clipped_loss(ratio: Tensor, advantages: Tensor, *, low: float, high: float) -> Tensor:
    """(N,) -min(ρ·A, clip(ρ, 1 - low, 1 + high)·A) (Schulman et al. 2017, eq. 7).

    ``high`` above ``low`` is DAPO's clip-higher (Yu et al. 2025, eq. 10).
    """
    clipped = ratio.clamp(1 - low, 1 + high)
    return -(ratio * advantages).minimum(clipped * advantages)


def clipped_low(ratio: Tensor, advantages: Tensor, low: float) -> Tensor:
    """(N,) bool: tokens that should become rarer and are rare enough already: they have no gradient."""
    return (ratio < 1 - low) & (advantages < 0)


def clipped_high(ratio: Tensor, advantages: Tensor, high: float) -> Tensor:
    """(N,) bool: tokens that should become likelier and are likely enough already: they have no gradient."""
    return (ratio > 1 + high) & (advantages > 0)


def moved(ratio: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """(N,) nats: k3 of KL(π_old ‖ π_new), ρ - 1 - log ρ, never negative (Schulman 2020): how far a step has gone."""
    return ratio - 1 - (new - old)
