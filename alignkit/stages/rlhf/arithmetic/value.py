"""What a value function is taught with, and how much it explains."""

from __future__ import annotations

import torch
from torch import Tensor


def value_loss(values: Tensor, returns: Tensor, old: Tensor | None = None, clip: float | None = None) -> Tensor:
    """(N,) ½·max((V - R)², (V_clipped - R)²), V_clipped = V kept within ±clip of the value at rollout (``old``).

    Clipping as in the code of Schulman et al. 2017 (Huang et al. 2022, "The 37 implementation details of PPO", detail
    9) and of Ziegler et al. 2019, with its half; without ``clip`` ½·(V - R)².

    Raises:
        ValueError: ``clip`` without ``old``.
    """
    plain = (values - returns).square()
    if clip is None:
        return plain / 2
    if old is None:
        raise ValueError("values are clipped around those of the rollout, and there are none")
    return plain.maximum((values.clamp(old - clip, old + clip) - returns).square()) / 2


def value_clipped(values: Tensor, returns: Tensor, old: Tensor, clip: float) -> Tensor:
    """(N,) bool: values whose clipped error is the larger one, so that they have no gradient."""
    return (values.clamp(old - clip, old + clip) - returns).square() > (values - returns).square()


def explained_variance(values: Tensor, returns: Tensor) -> float | None:
    """1 - Var(R - V)/Var(R): 1 where values tell returns exactly, 0 where a constant would do as well, below 0 worse.

    None where returns do not vary. Both (N,).
    """
    r, v = returns.double(), values.double()
    spread = float(r.var(correction=0)) if r.numel() else 0.0
    # Rounding alone makes float32 returns vary by the square of its precision.
    if spread <= (torch.finfo(returns.dtype).eps * max(1.0, float(r.abs().max()) if r.numel() else 0.0)) ** 2:
        return None
    return 1 - float((r - v).var(correction=0)) / spread
