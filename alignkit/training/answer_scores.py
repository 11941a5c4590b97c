"""Log-probabilities of the answers of a batch, whatever its layout (see data/branching.py).

Letters: A answers, N scored tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MODEL_KEYS = (
    "input_ids",
    "attention_mask",
    "position_ids",
    "document_lengths",
    "branch_lengths",
    "score_from",
    "score_labels",
)
"""What of a batch the model is called with."""


@dataclass(frozen=True)
class AnswerScores:
    """Of each answer the sum over its tokens, and the tokens themselves; all fp32 where not said otherwise."""

    log_probs: Tensor
    """(A,), nats: log π(answer | prompt)."""
    tokens: Tensor
    """(A,) int64."""
    per_token: Tensor
    """(N,), nats."""
    answer: Tensor
    """(N,) int64, ascending: which answer a token belongs to."""
    entropy: Tensor | None = None
    """(N,), nats: of the whole distribution at each token."""
    log_sum_sq_probs: Tensor | None = None
    """(N,): log Σ_v p_v²; no gradient."""
    mean_logits: Tensor | None = None
    """(N,); no gradient."""
    is_top1: Tensor | None = None
    """(N,) bool: whether the token is the likeliest one."""
    router: Tensor | None = None
    """() the load-balancing loss of a mixture of experts over the tokens of this pass, where it was asked for."""

    def sums(self, values: Tensor) -> Tensor:
        """Sums (A,) over each answer of values (N,)."""
        return sum_by_answer(values, self.tokens)


def token_outputs(
    model: Any, batch: Mapping[str, Any], wanted: tuple[str, ...], *, router: bool = False, **asked: Any
) -> Any:
    """What the scoring forward of ``model`` says of the answers of ``batch``, as `install_scoring_head` has it.
    ``asked``: its other arguments (score_temperature, score_states)."""
    given = {key: batch[key] for key in MODEL_KEYS if key in batch}
    if router:
        given["output_router_logits"] = True
    return model(**given, **asked, fused_lm_head=True, score_wanted=wanted)


def answer_scores(
    model: Any, batch: Mapping[str, Any], wanted: tuple[str, ...] = (), *, router: bool = False
) -> AnswerScores:
    """Score the answers of ``batch`` under ``model``, on which ``install_scoring_head`` was called.

    Differentiable in log-probabilities and entropy where gradients are on. ``wanted``: more fields of ``AnswerScores``
    (entropy, log_sum_sq_probs, mean_logits, is_top1). ``router``: that of a mixture of experts too.
    """
    found = token_outputs(model, batch, ("log_probs", *wanted), router=router)
    per_token, tokens = found.log_probs, batch["answer_tokens"].to(found.log_probs.device)
    return AnswerScores(
        log_probs=sum_by_answer(per_token, tokens),
        tokens=tokens,
        per_token=per_token,
        answer=batch["score_answer"].to(per_token.device),
        router=found.aux_loss if router else None,
        **{name: getattr(found, name) for name in wanted if name != "log_probs"},
    )


def sum_by_answer(values: Tensor, tokens: Tensor) -> Tensor:
    """Sums over the tokens of each answer, (N,) and (A,) -> (A,); an answer without tokens has 0.

    The order of the additions is fixed on every device, where adding by index is not on a GPU: a resumed run has to
    come to the same bits.
    """
    sums: Tensor = torch.segment_reduce(values, "sum", lengths=tokens, axis=0, unsafe=True, initial=0)
    return sums
