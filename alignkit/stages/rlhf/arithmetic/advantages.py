"""How much better a token was than expected: by a value function (PPO), or by what the answer earned (REINFORCE++)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alignkit.stages.rlhf.arithmetic.ragged import flat, padded, spread


class Targets(NamedTuple):
    """What policy and value function learn from; finite everywhere, 0 at tokens of answers that do not count."""

    advantages: Tensor
    """(N,)"""
    returns: Tensor
    """(N,) what the value function is to predict."""


def gae(rewards: Tensor, values: Tensor, lengths: Tensor, *, gamma: float, lam: float) -> Targets:
    """Generalized advantage estimation (Schulman et al. 2016, eq. 16), one episode an answer.

    δ_t = r_t + γ·V_{t+1} - V_t and A_t = δ_t + γλ·A_{t+1}, both 0 behind the last token, also where an answer was cut
    off (as in Ziegler et al. 2019). Returns are A_t + V_t. Sums run in float64.

    Args:
        rewards: (N,), see ``rewards.token_rewards``.
        values: (N,): V of the state before the token is written.
        gamma, lam: in [0, 1].
    """
    r, v = padded(rewards.double(), lengths), padded(values.double(), lengths)  # (A, T), 0 behind the end
    following = torch.cat([v[:, 1:], v.new_zeros(v.shape[0], 1)], 1)
    deltas = r + gamma * following - v  # 0 behind the end, as both r and v are
    after, columns = deltas.new_zeros(v.shape[0]), []
    for column in reversed(deltas.unbind(1)):
        after = column + gamma * lam * after
        columns.append(after)
    advantages = flat(torch.stack(columns[::-1], 1), lengths)
    return Targets(advantages.to(values.dtype), (advantages + values.double()).to(values.dtype))


def whiten(values: Tensor, *, counted: Tensor | None = None, shift_mean: bool = True) -> Tensor:
    """(N,) with variance 1 and mean 0; ``shift_mean=False`` leaves the mean where it was (of rewards).

    (x - μ)·(σ² + 1e-8)^-½ with the population's variance, as Ziegler et al. 2019's code has it (Huang et al. 2024).
    ``counted`` (N,) bool: which entries count; the others become 0. Sums run in float64.
    """
    wide = values.double()
    known = wide if counted is None else wide[counted]
    if not known.numel():
        return torch.zeros_like(values)
    mean = known.mean()
    found = (wide - mean) * (known.var(correction=0) + 1e-8).rsqrt()
    found = found if shift_mean else found + mean
    return (found if counted is None else found.where(counted, 0.0)).to(values.dtype)


def actor_critic(
    rewards: Tensor,
    values: Tensor,
    lengths: Tensor,
    *,
    gamma: float,
    lam: float,
    whiten_rewards: bool = False,
    whiten_advantages: bool = True,
    counted: Tensor | None = None,
) -> Targets:
    """PPO's targets: :func:`gae` of the token rewards, whitened as asked; returns are never whitened.

    Rewards keep their mean when they are whitened, advantages do not (Ziegler et al. 2019's code; Huang et al. 2024).
    ``counted`` (A,) bool: answers that take part.
    """
    tokens = None if counted is None else spread(counted, lengths)
    if whiten_rewards:
        rewards = whiten(rewards, counted=tokens, shift_mean=False)
    found = gae(rewards, values, lengths, gamma=gamma, lam=lam)
    advantages = whiten(found.advantages, counted=tokens) if whiten_advantages else found.advantages
    if tokens is None:
        return Targets(advantages, found.returns)
    return Targets(advantages.where(tokens, 0.0), found.returns.where(tokens, 0.0))


def reinforce_plus_plus(
    rewards: Tensor,
    lengths: Tensor,
    *,
    gamma: float = 1.0,
    whiten_advantages: bool = True,
    counted: Tensor | None = None,
) -> Tensor:
    """(N,) REINFORCE++: what a token and those after it earn, normalized over the whole rollout (Hu et al. 2025).

    With ``rewards`` (N,) of ``rewards.token_rewards``: A_t = score - β·Σ_{i≥t} KL_i at γ = 1. Its variant with a
    baseline takes the scores less the mean of their group (``groups.relative(…, scale="none")``), and the KL in the
    loss (k2).
    """
    earned = gae(rewards, torch.zeros_like(rewards), lengths, gamma=gamma, lam=1.0).advantages
    tokens = None if counted is None else spread(counted, lengths)
    if whiten_advantages:
        return whiten(earned, counted=tokens)
    return earned if tokens is None else earned.where(tokens, 0.0)
