"""Scores of given tokens under a language-model head, in chunks over the positions.

Where the head is frozen the gradient is computed in the forward pass while the chunk's logits are at hand, so nothing
is computed twice. Where the head is trained or tied to trained embeddings, its gradient needs a weight per token that
is known only later (a preference loss has it when all answers are scored): logits are recomputed in the backward pass.

Letters: N scored positions, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alignkit.training.logit_rule import LogitRule

CHUNK_BYTES = 32 * 2**20
"""Memory that one chunk's fp32 logits may take, so that the peak is flat in the vocabulary. On a CPU 8 to 96 MB are
equally fast; on a GPU the product wants more rows at once (see ``_rows_per_chunk``)."""
GPU_FACTOR = 8

LONG = 8
"""Chunks of a call from which the workspace is not kept after its backward pass."""

OUTPUTS = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")


def _rows_per_chunk(vocabulary: int, device: str = "cpu") -> int:
    return max(16, CHUNK_BYTES * (1 if device == "cpu" else GPU_FACTOR) // (4 * vocabulary))


class Workspace:
    """Memory for one chunk, kept between steps. On a CPU fresh pages cost more than the arithmetic on them; a GPU's
    allocator keeps its own."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """(rows, columns) of uninitialised memory; what was taken under this name before is overwritten."""
        if device.type != "cpu":
            return torch.empty(rows, columns, dtype=dtype, device=device)
        kept = self._buffers.get(name)
        if kept is None or kept.dtype != dtype or kept.numel() < rows * columns:
            kept = self._buffers[name] = torch.empty(rows * columns, dtype=dtype, device=device)
        return kept[: rows * columns].view(rows, columns)

    def release(self) -> None:
        """Give the memory back: what comes next needs more than the fresh pages will cost."""
        self._buffers.clear()


def _wide(hidden: Tensor) -> torch.dtype:
    """The format of sums and exponentials: fp32, or fp64 where the model computes in it."""
    return torch.promote_types(hidden.dtype, torch.float32)


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, rule: LogitRule, space: Workspace) -> Tensor:
    """(n, V) in fp32 at least, in the workspace."""
    n, vocabulary = hidden.shape[0], weight.shape[0]
    product = space.take("product", n, vocabulary, weight.dtype, hidden.device)
    torch.mm(hidden, weight.t(), out=product)
    if bias is not None:
        product += bias
    logits = space.take("logits", n, vocabulary, _wide(hidden), hidden.device)
    return rule.apply(logits.copy_(product))


class _TokenScores(torch.autograd.Function):
    """Scores of given labels under ``softmax(rule(hidden @ weight.T + bias))``.

    Gradients flow through ``log_probs`` and ``entropy``; the other outputs carry none.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,  # (N, D), the compute dtype
        weight: Tensor,  # (V, D), the same dtype
        bias: Tensor | None,  # (V,)
        labels: Tensor,  # (N,)
        rule: LogitRule,
        wanted: tuple[str, ...],
        space: Workspace,
    ) -> tuple[Tensor | None, ...]:
        n, vocabulary = hidden.shape[0], weight.shape[0]
        wide, device = _wide(hidden), hidden.device
        found = {name: torch.zeros(n, dtype=wide, device=device) for name in wanted if name != "is_top1"}
        if "is_top1" in wanted:
            found["is_top1"] = torch.zeros(n, dtype=torch.bool, device=device)
        head_trained = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        # The gradient of log p(label) by the hidden state needs no knowledge of what comes later: it is one
        # (N, D) matrix, and the backward pass only scales its rows.
        ready = torch.empty_like(hidden) if ctx.needs_input_grad[0] and not head_trained else None
        rows = _rows_per_chunk(vocabulary, device.type)
        for start in range(0, n, rows):
            part = slice(start, start + rows)
            logits = _logits(hidden[part], weight, bias, rule, space)  # (n, V)
            # As few passes over (n, V) as there are: on a CPU each costs as much as a tenth of the product. With
            # e = exp(z - max z) and s = sum e, everything follows from e, s and the logits.
            chosen = labels[part, None]  # (n, 1)
            top = logits.amax(-1)  # (n,)
            e = space.take("e", logits.shape[0], vocabulary, wide, device)  # (n, V)
            torch.sub(logits, top[:, None], out=e).exp_()
            total = e.sum(-1)  # (n,)
            lse = top + total.log()
            mine = logits.gather(-1, chosen).squeeze(-1)  # (n,)
            found["log_probs"][part] = mine - lse
            if "is_top1" in found:
                found["is_top1"][part] = mine == top
            if "mean_logits" in found:
                found["mean_logits"][part] = logits.mean(-1)
            if "log_sum_sq_probs" in found:
                found["log_sum_sq_probs"][part] = torch.linalg.vecdot(e, e).log() - 2 * total.log()
            if "entropy" in found:  # H = lse - sum_v p_v z_v
                found["entropy"][part] = lse - torch.linalg.vecdot(e, logits) / total
            if ready is not None:
                e.scatter_add_(-1, chosen, -total[:, None])  # s (p - onehot), before any rounding
                low = space.take("product", e.shape[0], vocabulary, weight.dtype, e.device)
                slope = low.copy_(rule.chain(e, logits)) @ weight  # (n, D)
                ready[part] = slope.to(wide).div_(-total[:, None]).to(ready.dtype)
        ctx.rule, ctx.space = rule, space
        ctx.save_for_backward(hidden, weight, bias, labels, ready)
        ctx.set_materialize_grads(False)
        results = tuple(found.get(name) for name in OUTPUTS)
        ctx.mark_non_differentiable(*(results[i] for i in (2, 3, 4) if results[i] is not None))
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        by_log_prob, by_entropy = gradients[0], gradients[1]
        hidden, weight, bias, labels, ready = ctx.saved_tensors
        grad_hidden: Tensor | None = None
        if ready is not None and by_entropy is None:
            if by_log_prob is not None:
                grad_hidden = ready * by_log_prob[:, None].to(ready.dtype)
            return grad_hidden, None, None, None, None, None, None
        rule: LogitRule = ctx.rule
        wide = _wide(hidden)
        n, vocabulary = hidden.shape[0], weight.shape[0]
        if ctx.needs_input_grad[0]:
            grad_hidden = torch.empty_like(hidden)
        # Sums over many chunks: kept wide, rounded once.
        grad_weight = torch.zeros_like(weight, dtype=wide) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias, dtype=wide) if bias is not None and ctx.needs_input_grad[2] else None
        rows = _rows_per_chunk(vocabulary, hidden.device.type)
        for start in range(0, n, rows):
            part = slice(start, start + rows)
            logits = _logits(hidden[part], weight, bias, rule, ctx.space)  # (n, V)
            p = ctx.space.take("e", *logits.shape, wide, logits.device)  # (n, V)
            torch.softmax(logits, dim=-1, out=p)
            bent: Tensor | None = None
            if by_entropy is not None:
                # dH/dz_v = -p_v (log p_v + H)
                log_p = torch.log_softmax(logits, dim=-1)
                log_p -= torch.linalg.vecdot(p, log_p)[:, None]
                bent = log_p.mul_(p).mul_(by_entropy[part, None].to(wide))
            slope = p  # gradient by the logits, in the place of the probabilities
            if by_log_prob is not None:
                g = by_log_prob[part, None].to(wide)
                slope.mul_(-g).scatter_add_(-1, labels[part, None], g)
            else:
                slope.zero_()
            if bent is not None:
                slope -= bent
            low = ctx.space.take("product", *slope.shape, weight.dtype, slope.device)
            slope = low.copy_(rule.chain(slope, logits))
            if grad_hidden is not None:
                grad_hidden[part] = slope @ weight
            if grad_weight is not None:
                _add_product(grad_weight, slope, hidden[part])
            if grad_bias is not None:
                grad_bias += slope.sum(0, dtype=wide)
        if n > LONG * rows:
            ctx.space.release()  # the layers of a long row come next
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None,
            None,
            None,
            None,
        )


def _add_product(total: Tensor, slope: Tensor, hidden: Tensor) -> None:
    """total (V, D) += slope.T (V, n) @ hidden (n, D), a part of the vocabulary at a time: the product of all of it
    would be another matrix as large as the head."""
    if total.dtype == slope.dtype:
        total.addmm_(slope.t(), hidden)
        return
    columns = max(1, CHUNK_BYTES // (4 * hidden.element_size() * hidden.shape[1]))
    for start in range(0, total.shape[0], columns):
        part = slice(start, start + columns)
        total[part] += slope[:, part].t() @ hidden


def token_scores(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    rule: LogitRule | None = None,
    wanted: tuple[str, ...] = ("log_probs",),
    space: Workspace | None = None,
) -> dict[str, Tensor | None]:
    """Score each label under the head's distribution at its position.

    Args:
        hidden: (N, D) states that predict the labels.
        weight, bias: the head, (V, D) and (V,) or None.
        labels: (N,) token ids in [0, V).
        rule: what the model does to the head's product before the softmax.
        wanted: names among ``OUTPUTS``; the others come back as None.
        space: memory to work in, shared by calls that follow one another; None: this call's own.

    Returns:
        Name to (N,) tensor: ``log_probs`` (nats), ``entropy`` (nats), ``log_sum_sq_probs``, ``mean_logits`` in fp32
        (fp64 where the model computes in it), ``is_top1`` as bool. Under autocast the product runs in its dtype, as the
        plain head's would.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    asked = tuple(dict.fromkeys(("log_probs", *wanted)))
    with torch.autocast(kind, enabled=False):
        results = _TokenScores.apply(
            hidden.to(dtype),
            weight.to(dtype),
            None if bias is None else bias.to(dtype),
            labels,
            rule or LogitRule(),
            asked,
            space or Workspace(),
        )
    return dict(zip(OUTPUTS, results, strict=True))
