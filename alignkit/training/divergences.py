"""How far a student's next-token distribution lies from its teacher's: six divergences, values and slopes.

t is the teacher's probability of a token, p the student's, both at the objective's temperature T.

Letters: n positions of a chunk, E events (tokens of a tile of the vocabulary, or top-k entries and a tail).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

KINDS = ("forward-kl", "reverse-kl", "skewed-kl", "skewed-reverse-kl", "jsd", "tv", "uld")


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a position costs: ``weight * T² * divergence + ce * -log p1(label)``, p1 the student at temperature 1.

    kind: one of ``KINDS``. ``uld`` compares sorted probabilities, for teachers with another vocabulary.
    temperature: T above 0; its square keeps gradients at one scale (Hinton et al. 2015, section 2.1).
    beta: of ``jsd``, in (0, 1): the teacher's share of the mixture (Agarwal et al. 2024, equation 1).
    skew: of the skewed divergences, in (0, 1): the share of the divergence's own side in the mixture (Ko et al. 2024,
    "DistiLLM", section 3.1).
    weight, ce: 1 - ratio and ratio where a recipe names one ratio; DistilBERT's are 5 and 2.
    """

    kind: str = "forward-kl"
    temperature: float = 1.0
    beta: float = 0.5
    skew: float = 0.1
    weight: float = 1.0
    ce: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is none of {', '.join(KINDS)}")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"the temperature is above 0, not {self.temperature}")
        for name in ("beta", "skew"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} lies between 0 and 1 (both excluded), not at {getattr(self, name)}")
        if self.weight < 0 or self.ce < 0:
            raise ValueError("the weights of an objective are at least 0")

    @property
    def scale(self) -> float:
        """What multiplies the divergence: weight * T²."""
        return self.weight * self.temperature**2


Terms = tuple[Tensor, Tensor, Tensor]
"""Of some events: their part of the value (n,), p times the derivative by p, up to a constant (n, E), its sum (n,)."""


def terms(objective: Objective, log_p: Tensor, log_t: Tensor) -> Terms:
    """What some events add to the divergence and to its slope.

    With parts summed over all events into a value and a c, the derivative by the student's logit v (over T) is
    ``u_v - c p_v``: the softmax's Jacobian. Both inputs (n, E), finite, in nats.
    """
    return _TERMS[objective.kind](objective, log_p, log_t)


def _forward_kl(_: Objective, log_p: Tensor, log_t: Tensor) -> Terms:
    """KL(t‖p)."""
    t = log_t.exp()
    value = torch.linalg.vecdot(t, log_t - log_p)
    u = t.neg_()
    return value, u, u.sum(-1)


def _reverse_kl(_: Objective, log_p: Tensor, log_t: Tensor) -> Terms:
    """KL(p‖t) (Gu et al. 2024, "MiniLLM", equation 2), here by its exact gradient at the given prefixes."""
    u = log_p.exp().mul_(log_p - log_t)
    value = u.sum(-1)
    return value, u, value


def _skewed_kl(objective: Objective, log_p: Tensor, log_t: Tensor) -> Terms:
    """KL(t‖αt + (1-α)p) (Ko et al. 2024, "DistiLLM", equation 3)."""
    log_m = _mixture(objective.skew, log_t, log_p)
    log_ratio = log_t - log_m
    value = torch.linalg.vecdot(log_t.exp(), log_ratio)
    u = log_ratio.add_(log_p).exp_().mul_(objective.skew - 1)
    return value, u, u.sum(-1)


def _skewed_reverse_kl(objective: Objective, log_p: Tensor, log_t: Tensor) -> Terms:
    """KL(p‖(1-α)t + αp) (Ko et al. 2024, "DistiLLM", section 3.1)."""
    log_ratio = log_p - _mixture(objective.skew, log_p, log_t)
    p = log_p.exp()
    value = torch.linalg.vecdot(p, log_ratio)
    u = p.mul_(log_ratio - objective.skew * log_ratio.exp())
    return value, u, u.sum(-1)


def _jsd(objective: Objective, log_p: Tensor, log_t: Tensor) -> Terms:
    """β KL(t‖m) + (1-β) KL(p‖m), m = βt + (1-β)p (Agarwal et al. 2024, "GKD", equation 1)."""
    beta = objective.beta
    log_m = _mixture(beta, log_t, log_p)
    u = log_p.exp().mul_(log_p - log_m).mul_(1 - beta)
    c = u.sum(-1)
    return beta * torch.linalg.vecdot(log_t.exp(), log_t - log_m) + c, u, c


def _tv(_: Objective, log_p: Tensor, log_t: Tensor) -> Terms:
    """Half the sum of |p - t|; a subgradient where they are equal (Wen et al. 2023, "f-DISTILL", section 3)."""
    p = log_p.exp()
    gap = p - log_t.exp()
    u = p.mul_(gap.sign()).mul_(0.5)
    return gap.abs_().sum(-1).mul_(0.5), u, u.sum(-1)


def _mixture(share: float, log_a: Tensor, log_b: Tensor) -> Tensor:
    """log(share·a + (1 - share)·b)."""
    return torch.logaddexp(log_a + math.log(share), log_b + math.log1p(-share))


_TERMS: dict[str, Callable[[Objective, Tensor, Tensor], Terms]] = {
    "forward-kl": _forward_kl,
    "reverse-kl": _reverse_kl,
    "skewed-kl": _skewed_kl,
    "skewed-reverse-kl": _skewed_reverse_kl,
    "jsd": _jsd,
    "tv": _tv,
}
