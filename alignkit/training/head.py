"""The fast loss path: token scores from the language-model head, on labelled positions only, in chunks.

TRL's trainers call ``model(..., labels=labels, fused_lm_head=True)`` on a forward that they set on the model
instance and read per-token scores from what comes back. ``install_scoring_head`` sets ours on the same contract,
after the trainer is built, so that every TRL trainer inherits it. Differences from theirs: only labelled
positions are scored on every device (theirs compacts under Triton only), and where the head is frozen the
gradient is computed in the forward pass while the chunk's logits are at hand, so nothing is computed twice.
Where the head is trained or tied to trained embeddings, logits are recomputed in the backward pass.

Letters: N labelled positions, D hidden size, V vocabulary.
"""

from __future__ import annotations

import functools
import types
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignkit.models.token_rows import trained_rows, with_row_gradients

CHUNK_BYTES = 32 * 2**20
"""Memory that one chunk's fp32 logits may take, so that the peak is flat in the vocabulary. On a CPU 8 to 96 MB are
equally fast; on a GPU the product wants more rows at once (see ``_rows_per_chunk``)."""
GPU_FACTOR = 8

OUTPUTS = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")


@dataclass(frozen=True)
class LogitRule:
    """How a model turns head outputs into logits: ``softcap * tanh(scale * z / softcap) / temperature``."""

    temperature: float = 1.0
    softcap: float | None = None
    scale: float = 1.0

    def apply(self, z: Tensor) -> Tensor:
        """Logits (n, V) from the head's product (n, V) in fp32, in place."""
        if self.scale != 1.0:
            z.mul_(self.scale)
        if self.softcap is not None:
            z.div_(self.softcap).tanh_().mul_(self.softcap)
        if self.temperature != 1.0:
            z.div_(self.temperature)
        return z

    def chain(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """Gradient by the head's product, given the gradient by the logits; both (n, V). Works in place."""
        if self.softcap is not None:
            gradient *= 1.0 - (logits * (self.temperature / self.softcap)).square()
        if self.scale != 1.0 or self.temperature != 1.0:
            gradient *= self.scale / self.temperature
        return gradient


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


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, rule: LogitRule, space: Workspace) -> Tensor:
    """(n, V) in fp32, in the workspace."""
    n, vocabulary = hidden.shape[0], weight.shape[0]
    product = space.take("product", n, vocabulary, weight.dtype, hidden.device)
    torch.mm(hidden, weight.t(), out=product)
    if bias is not None:
        product += bias
    logits = space.take("logits", n, vocabulary, torch.float32, hidden.device)
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
        fp32 = {"dtype": torch.float32, "device": hidden.device}
        found: dict[str, Tensor] = {name: torch.zeros(n, **fp32) for name in wanted if name != "is_top1"}  # type: ignore[arg-type]
        if "is_top1" in wanted:
            found["is_top1"] = torch.zeros(n, dtype=torch.bool, device=hidden.device)
        head_trained = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        # The gradient of log p(label) by the hidden state needs no knowledge of what comes later: it is one
        # (N, D) matrix, and the backward pass only scales its rows.
        ready = torch.empty_like(hidden) if ctx.needs_input_grad[0] and not head_trained else None
        rows = _rows_per_chunk(vocabulary, hidden.device.type)
        for start in range(0, n, rows):
            part = slice(start, start + rows)
            logits = _logits(hidden[part], weight, bias, rule, space)  # (n, V) fp32
            # As few passes over (n, V) as there are: on a CPU each costs as much as a tenth of the product. With
            # e = exp(z - max z) and s = sum e, everything follows from e, s and the logits.
            chosen = labels[part, None]  # (n, 1)
            top = logits.amax(-1)  # (n,)
            e = space.take("e", logits.shape[0], vocabulary, torch.float32, logits.device)  # (n, V)
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
                ready[part] = slope.float().div_(-total[:, None]).to(ready.dtype)
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
        n, vocabulary = hidden.shape[0], weight.shape[0]
        if ctx.needs_input_grad[0]:
            grad_hidden = torch.empty_like(hidden)
        # Sums over many chunks: kept in fp32, rounded once.
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        grad_bias = (
            torch.zeros_like(bias, dtype=torch.float32) if bias is not None and ctx.needs_input_grad[2] else None
        )
        rows = _rows_per_chunk(vocabulary, hidden.device.type)
        for start in range(0, n, rows):
            part = slice(start, start + rows)
            logits = _logits(hidden[part], weight, bias, rule, ctx.space)  # (n, V)
            log_p = torch.log_softmax(logits, dim=-1)
            p = log_p.exp()
            slope = torch.zeros_like(p)  # gradient by the logits
            if by_log_prob is not None:
                g = by_log_prob[part, None].float()
                slope -= p * g
                slope.scatter_add_(-1, labels[part, None], g)
            if by_entropy is not None:
                # dH/dz_v = -p_v (log p_v + H)
                entropy = -(p * log_p).sum(-1, keepdim=True)
                slope -= by_entropy[part, None].float() * p * (log_p + entropy)
            slope = rule.chain(slope, logits).to(weight.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = slope @ weight
            if grad_weight is not None:
                grad_weight += slope.t() @ hidden[part]
            if grad_bias is not None:
                grad_bias += slope.sum(0, dtype=torch.float32)
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None,
            None,
            None,
            None,
        )


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
        Name to (N,) tensor: ``log_probs`` (nats), ``entropy`` (nats), ``log_sum_sq_probs``, ``mean_logits`` in fp32,
        ``is_top1`` as bool. Under autocast the product runs in its dtype, as the plain head's would.
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


def logit_rule(config: Any, temperature: float = 1.0) -> LogitRule:
    """Read a model's logit scaling and soft-capping from its config.

    Names differ by family: Cohere ``logit_scale``, Falcon-H1 ``lm_head_multiplier``, others ``output_multiplier``
    multiply; Granite and MiniCPM3 ``logits_scaling`` divides, HyperCLOVA X multiplies by it; Gemma 2 caps with
    ``final_logit_softcapping``.
    """
    text = config.get_text_config()
    scale: float | None = None
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if scale is None:
            scale = getattr(text, name, None)
    if scale is None and (divisor := getattr(text, "logits_scaling", None)) is not None:
        scale = divisor if text.model_type == "hyperclovax" else 1.0 / divisor
    cap = getattr(text, "final_logit_softcapping", None)
    return LogitRule(temperature=temperature, softcap=cap, scale=1.0 if scale is None else float(scale))


def install_scoring_head(model: Any, *, temperature: float = 1.0, wanted: tuple[str, ...] = ("log_probs",)) -> None:
    """Set our forward on ``model`` (a causal language model, not its PEFT wrapper), on TRL's contract.

    ``model(..., labels=(B, T), fused_lm_head=True)`` returns TRL's ``FusedCausalLMOutput`` with (B, T-1) fields, zero
    where the label is -100; with ``shift_labels=(B, T)`` the fields are (B, T) and nothing is shifted. With
    ``loss_weights`` of the labels' shape, each token's log-probability comes back times its weight. Every other call
    goes to the forward that stood before, so generation and evaluation see the plain model.
    """
    from accelerate.utils import is_peft_model
    from torch.distributed.tensor import DTensor
    from trl.trainer.utils import FusedCausalLMOutput, maybe_gather_lm_head_ctx

    if is_peft_model(model):
        model = model.get_base_model()
    before = model.forward
    text_config = model.config.get_text_config()
    rule = logit_rule(model.config, temperature)
    space = Workspace()

    @functools.wraps(type(model).forward)
    def forward(
        self: Any,
        *args: Any,
        fused_lm_head: bool = False,
        labels: Tensor | None = None,
        shift_labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        loss_weights: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if not fused_lm_head:
            given = {"labels": labels, "shift_labels": shift_labels, "num_items_in_batch": num_items_in_batch}
            return before(*args, **{k: v for k, v in given.items() if v is not None}, **kwargs)
        kwargs["use_cache"] = False
        if getattr(text_config, "output_router_logits", False):
            kwargs.setdefault("output_router_logits", True)
        trunk = self.base_model(*args, **kwargs)  # looked up each time: FSDP and PEFT replace it
        hidden = trunk.last_hidden_state  # (B, T, D)
        if shift_labels is None:
            assert labels is not None
            hidden, targets = hidden[:, :-1], labels[:, 1:]
            loss_weights = None if loss_weights is None else loss_weights[:, 1:]
        else:
            targets = shift_labels
        head = self.get_output_embeddings()
        rows = trained_rows(head)  # of a frozen head, a few rows that are trained beside an adapter
        weight, bias = head.weight, rows.bias if rows is not None else getattr(head, "bias", None)
        targets = targets.to(weight.device)
        mask = targets != -100  # (B, T')
        if isinstance(weight, DTensor):
            weight = weight.full_tensor()
            bias = None if bias is None else bias.full_tensor()
        with maybe_gather_lm_head_ctx(weight, bias):  # DeepSpeed ZeRO-3 keeps the head in shards
            states, chosen = hidden.to(weight.device)[mask], targets[mask]
            scores = token_scores(states, weight, bias, chosen, rule, wanted, space)
            if rows is not None:
                scores = with_row_gradients(scores, states, weight, chosen, rows, rule)
        # masked_scatter keeps an all-masked batch connected to the graph, so that it yields a zero gradient.
        full = {k: None if v is None else v.new_zeros(mask.shape).masked_scatter(mask, v) for k, v in scores.items()}
        count = mask.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        log_probs = full["log_probs"]
        assert log_probs is not None
        if loss_weights is not None:
            full["log_probs"] = log_probs = log_probs * loss_weights.to(log_probs)
        loss = -log_probs.sum() / count
        aux = _router_loss(trunk, text_config, kwargs) if kwargs.get("output_router_logits") else None
        if aux is not None:
            loss = loss + getattr(text_config, "router_aux_loss_coef", 0.0) * aux
        return FusedCausalLMOutput(loss=loss, label_mask=mask, aux_loss=aux, **full)

    model.forward = types.MethodType(forward, model)


def _router_loss(trunk: Any, text_config: Any, kwargs: dict[str, Any]) -> Tensor:
    """Load-balancing loss of a mixture of experts (Fedus et al. 2021, equations 4 to 6)."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    experts = getattr(text_config, "num_experts", None) or text_config.num_local_experts
    loss = load_balancing_loss_func(
        trunk.router_logits, experts, text_config.num_experts_per_tok, kwargs.get("attention_mask")
    )
    assert isinstance(loss, Tensor)
    return loss
