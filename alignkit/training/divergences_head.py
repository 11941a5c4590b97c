"""The distillation loss of a student's head against a teacher's targets, in chunks over positions and vocabulary.

Where the student's head is frozen the gradient is computed in the forward pass, while a chunk's logits are at hand:
one (N, D) matrix, which the backward pass scales row by row. Where the head is trained or tied to trained embeddings,
logits (the student's, and a live teacher's) are recomputed in the backward pass, so that no (N, V) matrix is kept.

Letters: N scored positions, D hidden size, V vocabulary, r rows of a frozen head that are trained beside an adapter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignkit.models.token_rows import Rows
from alignkit.training import token_scores
from alignkit.training.divergences import Objective
from alignkit.training.divergences_chunk import score_chunk
from alignkit.training.divergences_teacher import head_logits, width_of, without_padding
from alignkit.training.logit_rule import LogitRule
from alignkit.training.targets import MatchedTargets, Targets
from alignkit.training.token_scores import Workspace

LEAST_ROWS = 16
"""A chunk has at least so many positions, however large the vocabulary: fewer waste the product."""
COLUMNS_BESIDE = 768
"""What a position takes beside its logits (states, listed entries, its part of tiles and of the product's own memory),
counted as so many columns: with them the peak is flat down to small vocabularies (scripts/bench/distill_memory.py)."""
TILE_ROWS = 4096
"""Rows of a head's gradient that are summed at once where its format is narrower than the sum's."""


@dataclass(frozen=True)
class Distilled:
    """Per position (N,), fp32 or wider: `loss` carries the gradient; `divergence` (nats, without the objective's weight
    and T²) and `nll` (of the labels at temperature 1, nats; None where the objective needs none) carry none."""

    loss: Tensor
    divergence: Tensor
    nll: Tensor | None


@dataclass(frozen=True)
class _Setting:
    """What a pass needs beside tensors with gradients."""

    labels: Tensor
    targets: Targets
    objective: Objective
    rule: LogitRule
    vocabulary: int
    row_index: Tensor | None
    space: Workspace

    def chunks(self, device: torch.device) -> list[slice]:
        """Ranges of positions whose logits, the wider of student's and teacher's, fill half of CHUNK_BYTES."""
        widest = max(self.vocabulary, width_of(self.targets))
        factor = 1 if device.type == "cpu" else token_scores.GPU_FACTOR
        rows = max(LEAST_ROWS, token_scores.CHUNK_BYTES // 2 * factor // (4 * (widest + COLUMNS_BESIDE)))
        return [slice(start, start + rows) for start in range(0, len(self.labels), rows)]


def distilled_scores(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    targets: Targets,
    objective: Objective,
    *,
    rule: LogitRule | None = None,
    vocabulary: int | None = None,
    rows: Rows | None = None,
    space: Workspace | None = None,
) -> Distilled:
    """Score a student's positions against its teacher's targets.

    Args:
        hidden: (N, D) student states that predict the labels.
        weight, bias: the student's head, (V, D) and (V,) or None.
        labels: (N,) token ids below V (read for the cross entropy).
        targets: the teacher's, at the same N positions.
        rule: what the student does to its head's product; its temperature is 1, the objective has its own.
        vocabulary: how many tokens both sides share, where their tables differ by padding at the end only; the rest of
            either table is left out of every softmax.
        rows: rows of a frozen head that are trained beside an adapter; they get their gradient.
        space: memory to work in, shared by calls that follow one another.

    Raises ValueError where targets do not fit: not N of them, another width than the student's and no `vocabulary`,
    sampled targets for a divergence that is not linear in the teacher, targets of another temperature.

    Under autocast the student's product runs in its dtype, as the plain head's would.
    """
    if not len(hidden) == len(labels) == len(targets):
        raise ValueError(f"{len(hidden)} states, {len(labels)} labels and targets of {len(targets)} positions")
    size = len(weight) if vocabulary is None else min(vocabulary, len(weight))
    width = width_of(targets)
    other = objective.kind == "uld" or isinstance(targets, MatchedTargets)  # another vocabulary is what they are for
    if width and not other and (width < size or (vocabulary is None and width > size)):
        raise ValueError(f"the teacher has {width} tokens and the student {size}: say how many they share")
    if vocabulary is not None:
        targets = without_padding(targets, size)
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    with torch.autocast(kind, enabled=False):
        by_rows = None
        if rows is not None:
            by_rows = hidden.detach().to(torch.float32) @ rows.values.float().t()  # (N, r), for its gradient only
        setting = _Setting(
            labels,
            targets,
            objective,
            rule or LogitRule(),
            size,
            None if rows is None else rows.index,
            space or Workspace(),
        )
        low_bias = None if bias is None else bias.to(dtype)
        loss, divergence, nll = _Distil.apply(hidden.to(dtype), weight.to(dtype), low_bias, by_rows, setting)
    return Distilled(loss, divergence, nll)


class _Distil(torch.autograd.Function):
    """(N,) loss, divergence and negative log-likelihood; gradients flow through the loss."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,  # (N, D)
        weight: Tensor,  # (V, D), the same dtype
        bias: Tensor | None,  # (V,)
        by_rows: Tensor | None,  # (N, r)
        setting: _Setting,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        n, wide = len(hidden), torch.promote_types(hidden.dtype, torch.float32)
        divergence = torch.zeros(n, dtype=wide, device=hidden.device)
        objective = setting.objective
        wants_nll = objective.ce > 0 or objective.temperature == 1.0
        nll = torch.zeros_like(divergence) if wants_nll else None
        trained = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        ready = torch.empty_like(hidden) if ctx.needs_input_grad[0] and not trained else None
        ready_rows = torch.empty_like(by_rows) if by_rows is not None and ctx.needs_input_grad[3] else None
        sloped = ready is not None or ready_rows is not None
        for part in setting.chunks(hidden.device):
            found, slope = _scored(hidden[part], weight, bias, part, setting, sloped=sloped)
            divergence[part] = found[0]
            if nll is not None:
                assert found[1] is not None
                nll[part] = found[1]
            if slope is None:
                continue
            if ready_rows is not None:
                assert setting.row_index is not None
                ready_rows[part] = _columns(slope, setting.row_index)
            if ready is not None:
                torch.mm(_narrow(slope, weight, setting.space), weight[: setting.vocabulary], out=ready[part])
        loss = divergence * objective.scale
        if nll is not None and objective.ce:
            loss += objective.ce * nll
        ctx.setting = setting
        ctx.save_for_backward(hidden, weight, bias, ready, ready_rows)
        ctx.mark_non_differentiable(divergence, *(() if nll is None else (nll,)))
        ctx.set_materialize_grads(False)
        return loss, divergence, nll

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        up = gradients[0]
        if up is None:
            return None, None, None, None, None
        hidden, weight, bias, ready, ready_rows = ctx.saved_tensors
        grad_rows = None if ready_rows is None else ready_rows * up[:, None].to(ready_rows.dtype)
        if ready is not None:
            return ready * up[:, None].to(ready.dtype), None, None, grad_rows, None
        if not any(ctx.needs_input_grad[:3]):
            return None, None, None, grad_rows, None
        setting: _Setting = ctx.setting
        wide = torch.promote_types(hidden.dtype, torch.float32)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        # Sums over many chunks: kept wide, rounded once.
        grad_weight = torch.zeros_like(weight, dtype=wide) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias, dtype=wide) if bias is not None and ctx.needs_input_grad[2] else None
        for part in setting.chunks(hidden.device):
            _, slope = _scored(hidden[part], weight, bias, part, setting, sloped=True)
            assert slope is not None
            slope *= up[part, None].to(slope.dtype)
            if grad_bias is not None:
                grad_bias[: setting.vocabulary] += slope.sum(0)
            low = _narrow(slope, weight, setting.space)
            if grad_hidden is not None:
                torch.mm(low, weight[: setting.vocabulary], out=grad_hidden[part])
            if grad_weight is not None:
                _add_product(grad_weight[: setting.vocabulary], low, hidden[part])
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            grad_rows,
            None,
        )


def _scored(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, part: slice, setting: _Setting, *, sloped: bool
) -> tuple[tuple[Tensor, Tensor | None], Tensor | None]:
    """Divergence and nll (n,) of a chunk, and the slope (n, V) of its loss by the head's product."""
    size = setting.vocabulary
    logits = head_logits(hidden, weight[:size], None if bias is None else bias[:size], setting.space, "logits")
    setting.rule.apply(logits)
    targets = setting.targets.take(part)
    found = score_chunk(logits, setting.labels[part], targets, setting.objective, setting.space, sloped=sloped)
    slope = None if found.slope is None else setting.rule.chain(found.slope, logits)
    return (found.divergence, found.nll), slope


def _narrow(slope: Tensor, weight: Tensor, space: Workspace) -> Tensor:
    """The slope in the head's format."""
    if slope.dtype == weight.dtype:
        return slope
    return space.take("product", len(slope), slope.shape[1], weight.dtype, slope.device).copy_(slope)


def _columns(slope: Tensor, index: Tensor) -> Tensor:
    """(n, r) of (n, V); a token beyond the shared vocabulary has no slope."""
    inside = index < slope.shape[1]
    return slope.index_select(-1, index.clamp(max=slope.shape[1] - 1)) * inside


def _add_product(total: Tensor, slope: Tensor, hidden: Tensor) -> None:
    """Add slopeᵀ hidden (V, D) to the total, with no second matrix of its size."""
    if total.dtype == slope.dtype:
        total.addmm_(slope.t(), hidden)
        return
    for start in range(0, len(total), TILE_ROWS):
        tile = slice(start, start + TILE_ROWS)
        total[tile] += slope[:, tile].t() @ hidden
