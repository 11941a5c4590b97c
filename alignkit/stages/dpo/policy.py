"""What the losses read of one batch: the policy's log-probabilities beside the reference's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from alignkit.stages.dpo.losses import Scores
from alignkit.stages.dpo.recipe import DpoOptions
from alignkit.stages.dpo.step import feedback_scores, pair_scores
from alignkit.training.answer_scores import answer_scores


def policy_scores(
    model: Any,
    batch: Mapping[str, Any],
    options: DpoOptions,
    *,
    reference: Tensor | None,
    kl: Tensor | None = None,
    mean_chosen_tokens: float | None = None,
    router: bool = False,
) -> Scores:
    """Score a batch under ``model``, with its gradient where gradients are on.

    Args:
        batch: rows in one of the layouts, on the model's device; feedback has ``desirable``.
        reference: (N,) log-probabilities of the scored tokens under the reference; None: no loss reads them.
        kl: () mean log-ratio of the step's mismatched answers, where a loss reads it.
        mean_chosen_tokens: of the whole step; None: the batch is all of it.
        router: whether the load-balancing loss of a mixture of experts is wanted.
    """
    found = answer_scores(model, batch, ("log_sum_sq_probs",) if options.weighted else (), router=router)
    given = None if reference is None else reference.to(found.per_token)
    if "desirable" in batch:
        told = found.per_token.new_zeros(found.per_token.shape) if given is None else given
        wanted = batch["desirable"].to(found.tokens.device)
        return replace(feedback_scores(found.per_token, told, found.tokens, wanted, kl), router=found.router)
    margins = batch.get("margins")
    scores = pair_scores(
        found.per_token,
        given,
        found.tokens,
        options,
        log_sum_sq_probs=found.log_sum_sq_probs,
        margins=None if margins is None else margins.to(found.per_token.device),
        mean_chosen_tokens=mean_chosen_tokens,
    )
    return replace(scores, router=found.router)


def mismatched_ratios(model: Any, batch: Mapping[str, Any], reference: Tensor) -> Tensor:
    """(B,) log π/π_ref in nats of answers that stand under prompts of others; one answer a row. Call it without
    gradients: KTO's reference point is a constant (Ethayarajh et al. 2024, section 4.1)."""
    found = answer_scores(model, batch)
    return found.log_probs - found.sums(reference.to(found.per_token))
