"""One optimizer step as a function of its answers' log-probabilities, and the way from tokens to those.

A loss over the whole step (AOT sorts it, BCO keeps a mean of it) is wanted from micro-batches that are forwarded one
after the other. Its gradient needs no more than each answer's log-probability: a pass without gradients finds them
all, :func:`coefficients` differentiates the loss by them, and each micro-batch then backpropagates
:func:`surrogate`, whose gradient is its part of the step's. Everything here is a function of tensors.

Letters: A answers, N scored tokens, B rows; the answers of pairs stand chosen, rejected, chosen, rejected …
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import overload

import torch
from torch import Tensor

from alignkit.stages.dpo.losses import FeedbackScores, PairScores, Scores, State, remember, total
from alignkit.stages.dpo.recipe import DpoOptions
from alignkit.training.answer_scores import sum_by_answer

POLICY = {PairScores: ("chosen", "rejected", "chosen_plain"), FeedbackScores: ("policy",)}
"""The fields that carry the gradient."""


@dataclass(frozen=True)
class Coefficients:
    """The gradient of a step's loss by its log-probabilities, and what else the step decides."""

    by: dict[str, Tensor]
    """Field of the scores to ∂(mean loss)/∂(its entry), (B,) each."""
    losses: Tensor
    """(B,) the loss of each row; their mean is the step's."""
    state: State
    """What the losses remember after this step."""

    def __getitem__(self, rows: slice | Sequence[int]) -> Coefficients:
        """Those of some rows of the step: what a micro-batch needs."""
        return replace(self, by={name: one[rows] for name, one in self.by.items()}, losses=self.losses[rows])


def coefficients(scores: Scores, options: DpoOptions, state: State) -> Coefficients:
    """Differentiate the mean loss of a whole step by the log-probabilities of its answers.

    ``scores`` holds all B rows of the step; what gradient it carries is not used. ``state`` is that before the step:
    the losses see it with this step's rows in it, as they do when a step is one micro-batch.
    """
    free = detached(scores)
    names = [name for name in POLICY[type(free)] if getattr(free, name) is not None]
    leaves = [getattr(free, name).requires_grad_() for name in names]
    after = remember(free, options, state)
    with torch.enable_grad():
        losses = total(free, options, after)
        found = torch.autograd.grad(losses.mean(), leaves, allow_unused=True)
    by = {
        name: torch.zeros_like(leaf) if one is None else one
        for name, leaf, one in zip(names, leaves, found, strict=True)
    }
    return Coefficients(by, losses.detach(), after)


def surrogate(scores: Scores, part: Coefficients) -> Tensor:
    """() Σ coefficient·log-probability of a micro-batch: summed over the micro-batches of a step, its gradient is that
    of the step's mean loss. Its value means nothing.

    ``scores``: those of the micro-batch, with gradient; ``part``: its rows of the step's coefficients.
    """
    terms = [(by * getattr(scores, name)).sum() for name, by in part.by.items()]
    return sum(terms[1:], start=terms[0])


def step_loss(scores: Scores, options: DpoOptions, state: State, *, rows: int) -> tuple[Tensor, Tensor, State]:
    """The part of a step's loss that some of its rows carry, for losses that are separable; and for all where the
    step is one micro-batch.

    ``rows``: of the whole step. Returns (() Σ loss / rows, (B,) losses without gradient, the state after it).
    """
    after = remember(detached(scores), options, state)
    losses = total(scores, options, after)
    return losses.sum() / rows, losses.detach(), after


@overload
def detached(scores: PairScores) -> PairScores: ...
@overload
def detached(scores: FeedbackScores) -> FeedbackScores: ...
def detached(scores: Scores) -> Scores:
    """The same numbers without gradient, as copies of their own."""
    return replace(
        scores,
        **{
            one.name: value.detach().clone()
            for one in fields(scores)
            if isinstance(value := getattr(scores, one.name), Tensor)
        },
    )


@overload
def joined(parts: Sequence[PairScores]) -> PairScores: ...
@overload
def joined(parts: Sequence[FeedbackScores]) -> FeedbackScores: ...
def joined(parts: Sequence[Scores]) -> Scores:
    """The scores of micro-batches as those of one step, in their order. `kl` and `mean_chosen_tokens` belong to the
    step and are taken from the first."""
    first = parts[0]
    return replace(
        first,
        **{
            one.name: torch.cat([getattr(part, one.name) for part in parts])
            for one in fields(first)
            if isinstance(value := getattr(first, one.name), Tensor) and value.ndim
        },
    )


# --- from tokens to answers ---------------------------------------------------------------------------------------


def pair_scores(
    per_token: Tensor,
    reference: Tensor | None,
    tokens: Tensor,
    options: DpoOptions,
    *,
    log_sum_sq_probs: Tensor | None = None,
    margins: Tensor | None = None,
    mean_chosen_tokens: float | None = None,
) -> PairScores:
    """Log-probabilities of the tokens of B pairs as scores of their answers.

    Args:
        per_token: (N,) log-probabilities under the policy, answer by answer, chosen before rejected.
        reference: (N,) the same under the reference; None: no loss needs it.
        tokens: (2B,) int64, tokens of each answer.
        log_sum_sq_probs: (N,) log Σ_v π(v)² at each token; needed with `dpo.weighted`.
        margins: (B,) by the data's own scores.
        mean_chosen_tokens: of the whole step, where these are not all of its rows.
    """
    counted = token_weights(tokens, options.ld_alpha, per_token)
    policy = sum_by_answer(per_token if counted is None else per_token * counted, tokens)
    if reference is None:
        base = torch.zeros_like(policy, requires_grad=False)
    else:
        base = sum_by_answer(reference if counted is None else reference * counted, tokens)
    weights: Tensor | None = None
    if options.weighted:
        assert log_sum_sq_probs is not None, "dpo.weighted needs log_sum_sq_probs"
        weights = policy_weights(per_token, log_sum_sq_probs, tokens)
    return PairScores(
        chosen=policy[0::2],
        rejected=policy[1::2],
        chosen_reference=base[0::2],
        rejected_reference=base[1::2],
        chosen_tokens=tokens[0::2],
        rejected_tokens=tokens[1::2],
        chosen_weights=None if weights is None else weights[0::2],
        rejected_weights=None if weights is None else weights[1::2],
        margins=margins,
        mean_chosen_tokens=mean_chosen_tokens,
        chosen_plain=None if counted is None else sum_by_answer(per_token, tokens)[0::2],
    )


def feedback_scores(
    per_token: Tensor, reference: Tensor, tokens: Tensor, desirable: Tensor, kl: Tensor | None = None
) -> FeedbackScores:
    """The same for B single answers. ``kl`` (): mean log-ratio of the step's mismatched answers; None: not read."""
    policy = sum_by_answer(per_token, tokens)
    return FeedbackScores(
        policy=policy,
        reference=sum_by_answer(reference, tokens),
        desirable=desirable,
        tokens=tokens,
        kl=policy.new_zeros(()) if kl is None else kl,
    )


def token_weights(tokens: Tensor, ld_alpha: float | None, like: Tensor) -> Tensor | None:
    """(N,) 1 for the tokens up to the length that both answers of a pair have, ld_alpha beyond (LD-DPO, Liu et al.
    2024); None: all count alike. ``tokens`` (2B,); the dtype and device are those of ``like``."""
    if ld_alpha is None or ld_alpha == 1:
        return None
    tokens = tokens.to(like.device)
    shared = tokens.view(-1, 2).amin(1).repeat_interleave(2)  # (2B,)
    starts = (tokens.cumsum(0) - tokens).repeat_interleave(tokens)  # (N,)
    place = torch.arange(starts.numel(), device=like.device) - starts
    beyond = place >= shared.repeat_interleave(tokens)
    return torch.ones_like(like, requires_grad=False).masked_fill(beyond, ld_alpha)


def policy_weights(per_token: Tensor, log_sum_sq_probs: Tensor, tokens: Tensor) -> Tensor:
    """(A,) WPO's weight of each answer: exp of the mean over its tokens of log π(y_t) - log Σ_v π(v)² (Zhou et al.
    2024, eq. 2: aligned with what sampling from the policy would give, where it is 1 on average). No gradient."""
    with torch.no_grad():
        found: Tensor = (sum_by_answer(per_token - log_sum_sq_probs, tokens) / tokens.clamp(min=1)).exp()
    return found
