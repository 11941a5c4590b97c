"""Log-probabilities, entropies and values of the tokens of answers, with and without gradients, in one pass each.

Nothing but the positions that predict a token of an answer goes through the head, and with the shared layout a prompt
goes through the trunk once for all of its answers.

Letters: A answers, N tokens of them, D hidden size; B and T as the layout says (see data/branching.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from alignkit.data.branches import Branched
from alignkit.data.branching import Collator
from alignkit.evaluation.inference import reading
from alignkit.rollouts.rows import cut
from alignkit.training.answer_scores import sum_by_answer, token_outputs
from alignkit.training.head import ready_to_score

ValueHead: TypeAlias = Callable[[Tensor], Tensor]
"""From the trunk's last hidden states (N, D), each of the position that predicts a token, to values (N,)."""

TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 16384}
"""Tokens of a forward pass without gradients, by device: more of them at once take longer on a CPU, and more memory."""
WANTED = ("log_probs", "entropy")
_FIELDS = ("log_probs", "entropy", "values", "is_top1")
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class TokenScores:
    """What a model says of the tokens of answers, (N,) each, answer by answer; fp32."""

    tokens: Tensor
    """(A,) int64: tokens of each answer."""
    log_probs: Tensor | None = None
    """Nats."""
    entropy: Tensor | None = None
    """Nats, of the whole distribution at each token."""
    values: Tensor | None = None
    """What the value head says before each token."""
    is_top1: Tensor | None = None
    """Whether the token was the likeliest; bool, no gradient."""
    router: Tensor | None = None
    """() the load-balancing loss of a mixture of experts over this pass, where it was asked for."""

    def sums(self, values: Tensor) -> Tensor:
        """Sums (A,) over each answer of values (N,)."""
        return sum_by_answer(values, self.tokens)

    def padded(self, values: Tensor, width: int | None = None) -> Tensor:
        """Values (N,) as (A, width) with 0 behind the end of each answer; None: as wide as the longest."""
        filled = self.mask(width).to(values.device)
        return values.new_zeros(filled.shape).masked_scatter(filled, values)

    def mask(self, width: int | None = None) -> Tensor:
        """(A, width) bool: where `padded` puts tokens."""
        longest = int(self.tokens.max()) if len(self.tokens) else 0
        return torch.arange(width or longest, device=self.tokens.device) < self.tokens[:, None]


def score_batch(
    model: Any,
    batch: Mapping[str, Any],
    *,
    temperature: float = 1.0,
    wanted: Sequence[str] = WANTED,
    value_head: ValueHead | None = None,
    router: bool = False,
) -> TokenScores:
    """Score the answers of a collated batch, which lies on the model's device, in one forward pass.

    Differentiable in log-probabilities, entropy and values where gradients are on.

    Args:
        model: a causal language model, or its PEFT wrapper; where it has no scoring forward it gets one.
        temperature: what the answers were drawn at: the logits are divided by it.
        wanted: names among log_probs, entropy and is_top1; () with a value head: the language-model head is not asked.
        value_head: gives ``values``; its gradient goes on into the trunk unless it detaches the states.
        router: whether the load-balancing loss of a mixture of experts is wanted.
    """
    found = token_outputs(
        ready_to_score(model),
        batch,
        tuple(wanted),
        router=router,
        score_temperature=temperature,
        score_states=value_head is not None,
    )
    values = None
    if value_head is not None:
        values = value_head(found.states).float()
        if values.shape != found.states.shape[:1]:
            raise ValueError(f"the value head gave {tuple(values.shape)} for {len(found.states)} states")
    return TokenScores(
        tokens=batch["answer_tokens"].to(batch["input_ids"].device),
        log_probs=found.log_probs if "log_probs" in wanted else None,
        entropy=found.entropy,
        values=values,
        is_top1=found.is_top1,
        router=found.aux_loss if router else None,
    )


def score(
    model: Any,
    rows: Sequence[Branched],
    collate: Collator,
    *,
    temperature: float = 1.0,
    batch: int,
    wanted: Sequence[str] = WANTED,
    value_head: ValueHead | None = None,
    autocast: str | None = None,
) -> TokenScores:
    """Score rows in evaluation mode without gradients; the results are on the CPU, answer by answer as the rows have
    them.

    Args:
        collate: the layout (`data.branching.of_layout`).
        batch: answers of a forward pass; fewer where these have more than ``TOKENS_AT_ONCE`` tokens. Otherwise which
            go together is as in `rows.micro_batches`: a pass with gradients over the same part computes the same
            numbers, to the last bit.
        autocast: "bf16" or "fp16" where products are computed in another format than the weights'.

    The other arguments are those of `score_batch`.
    """
    branches = [branch for row in rows for branch in row.branches]
    first = [0]
    for row in rows:
        first.append(first[-1] + len(row.branches))
    parts: list[TokenScores] = []
    order: list[int] = []
    device = next(model.parameters()).device
    kind = _AUTOCAST.get(autocast or "")
    with reading(model), torch.autocast(device.type, kind, enabled=kind is not None):
        for part in cut(rows, batch, TOKENS_AT_ONCE.get(device.type, TOKENS_AT_ONCE["cuda"])):
            inputs = on_device(collate(_rows_of(rows, part)), device)
            parts.append(score_batch(model, inputs, temperature=temperature, wanted=wanted, value_head=value_head))
            order += [first[row] + branch for row, branch in part]
    counts = [branch.tokens for branch in branches]
    return in_order(parts, order, counts)


def on_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch whose tensors lie on the device."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def _rows_of(rows: Sequence[Branched], part: Iterable[tuple[int, int]]) -> list[Branched]:
    """The rows of a part, each with the branches that belong to it."""
    chosen: dict[int, list[int]] = {}
    for row, branch in part:
        chosen.setdefault(row, []).append(branch)
    return [
        replace(rows[row], branches=tuple(rows[row].branches[branch] for branch in branches))
        for row, branches in chosen.items()
    ]


def in_order(parts: Sequence[TokenScores], order: Sequence[int], counts: Sequence[int]) -> TokenScores:
    """Scores of parts as one, answers in the order of the rows. ``order``: which answer each of the parts' is."""
    place = {answer: at for at, answer in enumerate(order)}
    joined: dict[str, Tensor] = {}
    for name in _FIELDS:
        held = [getattr(part, name) for part in parts]
        if not held or held[0] is None:
            continue
        pieces = torch.cat([one.detach().cpu() for one in held]).split([counts[answer] for answer in order])
        joined[name] = torch.cat([pieces[place[answer]] for answer in range(len(counts))])
    return TokenScores(torch.tensor(counts, dtype=torch.int64), **joined)
