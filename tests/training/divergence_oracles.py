"""The divergences once more, from their definitions: in numpy on full matrices, and in plain torch for autograd."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from alignkit.training.divergences import Objective
from alignkit.training.logit_rule import LogitRule

Array = NDArray[np.float64]


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(-1, keepdims=True))
    out: Array = e / e.sum(-1, keepdims=True)
    return out


def kl(a: Array, b: Array) -> Array:
    """Sum of a log(a/b) in each row; an event that a never shows costs nothing."""
    ratio = np.where(a > 0, np.log(np.where(a > 0, a, 1.0) / np.maximum(b, 1e-300)), 0.0)
    out: Array = (a * ratio).sum(-1)
    return out


def numpy_divergence(objective: Objective, t: Array, p: Array) -> Array:
    """(N,) of teacher t and student p, (N, V) probabilities."""
    beta, skew = objective.beta, objective.skew
    mixed = beta * t + (1 - beta) * p
    found: dict[str, Array] = {
        "forward-kl": kl(t, p),
        "reverse-kl": kl(p, t),
        "skewed-kl": kl(t, skew * t + (1 - skew) * p),
        "skewed-reverse-kl": kl(p, (1 - skew) * t + skew * p),
        "jsd": beta * kl(t, mixed) + (1 - beta) * kl(p, mixed),
        "tv": 0.5 * np.abs(t - p).sum(-1),
    }
    return found[objective.kind]


def plain_logits(z: torch.Tensor, rule: LogitRule) -> torch.Tensor:
    """The rule, for autograd to follow."""
    z = z * rule.scale
    return z if rule.softcap is None else rule.softcap * torch.tanh(z / rule.softcap)


def torch_divergence(objective: Objective, t: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """The same as ``numpy_divergence``, in probabilities, for autograd to follow."""

    def kl(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (torch.xlogy(a, a) - torch.xlogy(a, b)).sum(-1)

    beta, skew = objective.beta, objective.skew
    if objective.kind == "uld":
        a, b = p.sort(descending=True).values, t.sort(descending=True).values
        width = max(a.shape[1], b.shape[1])
        a, b = (torch.nn.functional.pad(x, (0, width - x.shape[1])) for x in (a, b))
        return (a - b).abs().sum(-1)
    mixed = beta * t + (1 - beta) * p
    return {
        "forward-kl": lambda: kl(t, p),
        "reverse-kl": lambda: kl(p, t),
        "skewed-kl": lambda: kl(t, skew * t + (1 - skew) * p),
        "skewed-reverse-kl": lambda: kl(p, (1 - skew) * t + skew * p),
        "jsd": lambda: beta * kl(t, mixed) + (1 - beta) * kl(p, mixed),
        "tv": lambda: 0.5 * (t - p).abs().sum(-1),
    }[objective.kind]()


def plain_loss(
    objective: Objective, logits: torch.Tensor, labels: torch.Tensor, t: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and divergence (N,) on full logits (N, V) of the student and full probabilities t at the temperature."""
    divergence = torch_divergence(objective, t, (logits / objective.temperature).softmax(-1))
    nll = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    return objective.weight * objective.temperature**2 * divergence + objective.ce * nll, divergence
