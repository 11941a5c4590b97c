"""The losses of the algorithms that are our own, on the answers of one forward pass.

An optimizer step's mini-batch may take several passes. Each loss is divided by what the whole mini-batch counts, so
that the passes' losses (and their figures, one by one) only have to be added up; figures carry no gradient.

Letters: N tokens of the pass's answers, end to end; P pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from alignkit.stages.dpo.losses import PairScores, State, rewards, total
from alignkit.stages.dpo.recipe import DpoOptions
from alignkit.stages.rlhf.arithmetic.kl import Estimator, penalty
from alignkit.stages.rlhf.arithmetic.policy import clipped_high, clipped_loss, clipped_low, moved, ratios
from alignkit.stages.rlhf.arithmetic.ragged import sums
from alignkit.stages.rlhf.arithmetic.value import value_clipped, value_loss

Figures = dict[str, Tensor]
"""Name to scalar, without gradient: this pass's part of the mean over the mini-batch."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a loss is made of; see the recipe's fields of the same names."""

    clip: float = 0.2
    """The ratio is clipped at 1 - clip …"""
    clip_high: float | None = None
    """… and at 1 + clip_high; None: as clip."""
    kl: Estimator | None = None
    """The KL to the reference as a term of this loss; None: it is in the rewards, or nowhere."""
    kl_coefficient: float = 0.0
    entropy_coefficient: float = 0.0
    """Of the mean entropy in nats, which the loss raises (Schulman et al. 2017, eq. 9)."""
    value_coefficient: float = 0.1
    value_clip: float | None = 0.2
    """In units of the return; None: not clipped."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The tokens of one pass: as they were at the rollout, and as policy and value function see them now."""

    new: Tensor
    """(N,) log π(token), with gradient, float32 or float64."""
    old: Tensor
    """(N,) the same of the policy that drew them."""
    advantages: Tensor
    """(N,)"""
    reference: Tensor | None = None
    """(N,) log π_ref(token), where ``Terms.kl`` asks for it."""
    entropy: Tensor | None = None
    """(N,) nats; with gradient where the entropy is in the loss."""
    values: Tensor | None = None
    """(N,) with gradient: ppo."""
    old_values: Tensor | None = None
    """(N,) those of the rollout: ppo with a clipped value loss."""
    returns: Tensor | None = None
    """(N,): ppo."""


def _part_of_mean(tokens: int) -> Callable[[Tensor], Tensor]:
    """Sums over the pass, divided by the tokens of the mini-batch."""
    return lambda values: values.sum() / max(tokens, 1)


def reinforce_plus_plus(scored: Scored, terms: Terms, tokens: int) -> tuple[Tensor, Figures]:
    """REINFORCE++ (Hu et al. 2025): the clipped surrogate, with KL and entropy as ``terms`` have them; no values.

    Args:
        tokens: in the whole mini-batch.

    Returns:
        () loss with gradient, and figures: policy_loss; clip_low, clip_high (shares of tokens); moved (nats a token
        from the rollout's policy); shift (mean of |ratio - 1|); kl_loss and entropy (nats a token), where they are
        known.
    """
    ratio = ratios(scored.new, scored.old)
    high = terms.clip if terms.clip_high is None else terms.clip_high
    mean = _part_of_mean(tokens)
    policy = mean(clipped_loss(ratio, scored.advantages, low=terms.clip, high=high))
    figures = {
        "policy_loss": policy,
        "clip_low": mean(clipped_low(ratio, scored.advantages, terms.clip)),
        "clip_high": mean(clipped_high(ratio, scored.advantages, high)),
        "moved": mean(moved(ratio, scored.new, scored.old)),
        "shift": mean((ratio - 1).abs()),
    }
    loss = policy
    if terms.kl is not None:
        assert scored.reference is not None, "a KL in the loss needs the reference's log-probabilities"
        figures["kl_loss"] = mean(penalty(scored.new, scored.old, scored.reference, terms.kl))
        loss = loss + terms.kl_coefficient * figures["kl_loss"]
    if scored.entropy is not None:
        figures["entropy"] = mean(scored.entropy)
        if terms.entropy_coefficient:
            loss = loss - terms.entropy_coefficient * figures["entropy"]
    return loss, {name: value.detach() for name, value in figures.items()}


def ppo(scored: Scored, terms: Terms, tokens: int) -> tuple[Tensor, Figures]:
    """PPO (Schulman et al. 2017, eq. 9; Ziegler et al. 2019): the same, and the value function's loss beside it.

    Further figures: value_loss, value_clip (share of tokens).
    """
    loss, figures = reinforce_plus_plus(scored, terms, tokens)
    values, returns, old = scored.values, scored.returns, scored.old_values
    assert values is not None and returns is not None, "ppo needs values and returns"
    mean = _part_of_mean(tokens)
    found = mean(value_loss(values, returns, old, terms.value_clip))
    figures["value_loss"] = found.detach()
    if terms.value_clip is not None and old is not None:
        figures["value_clip"] = mean(value_clipped(values.detach(), returns, old, terms.value_clip))
    return loss + terms.value_coefficient * found, figures


def online_dpo(
    log_probs: Tensor, reference: Tensor, lengths: Tensor, options: DpoOptions, state: State, *, pairs: int
) -> tuple[Tensor, Figures]:
    """Online DPO (Guo et al. 2024, algorithm 1): a preference loss on pairs that the policy has just written itself.

    Args:
        log_probs: (N,) with gradient, of 2P answers: chosen, rejected, chosen … (``groups.best_and_worst``).
        reference: (N,).
        lengths: (2P,) tokens of each.
        options: which loss of the dpo stage, and its beta.
        pairs: in the whole mini-batch. A loss that is not separable needs all of them in one pass.

    Returns:
        () loss with gradient, and figures: policy_loss, accuracy (share of pairs whose chosen answer has the higher
        implicit reward), reward_chosen, reward_rejected, margin.
    """
    policy, base = sums(log_probs, lengths), sums(reference, lengths)
    scores = PairScores(
        chosen=policy[0::2],
        rejected=policy[1::2],
        chosen_reference=base[0::2],
        rejected_reference=base[1::2],
        chosen_tokens=lengths[0::2],
        rejected_tokens=lengths[1::2],
    )
    share = max(pairs, 1)
    loss = total(scores, options, state).sum() / share
    with torch.no_grad():
        chosen, rejected = rewards(scores, options)
    figures = {
        "policy_loss": loss.detach(),
        "accuracy": (chosen > rejected).to(loss.dtype).sum() / share,
        "reward_chosen": chosen.sum() / share,
        "reward_rejected": rejected.sum() / share,
        "margin": (chosen - rejected).sum() / share,
    }
    return loss, {name: value.detach() for name, value in figures.items()}
