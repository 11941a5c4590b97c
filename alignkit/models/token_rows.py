"""Single rows of a frozen embedding and head, trained beside an adapter: PEFT's trainable tokens, in passes that cost
what the rows cost.

PEFT copies the whole matrix (V, D) for every pass and lets autograd fill a gradient of that size. Here the embedding
looks its few trained rows up apart, the plain head computes their logits apart, and the scoring head of training (see
training/head.py) gets a copy of the weight that is renewed once a step, and the gradient of the rows in closed form.

V tokens, D features, k trained rows, N labelled positions.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignkit.models.vocabulary import write_rows


@dataclass(frozen=True, slots=True)
class Rows:
    """The trained rows of a head: `values` (k, D), trained, of the tokens `index` (k,); the head's own `bias` (V,)."""

    values: Tensor
    index: Tensor
    bias: Tensor | None


def install_row_passes(peft: nn.Module, adapter: str) -> int:
    """Give every layer of `peft` with trained rows of `adapter` the passes above; returns how many there are."""
    count = 0
    for layer in _layers(peft):
        if adapter not in layer.token_indices:
            continue
        base = layer.get_base_layer()
        layer.trained_adapter, layer.merged_copy = adapter, None
        index = torch.tensor(layer.token_indices[adapter], device=base.weight.device)
        place = torch.full((len(base.weight),), -1, device=base.weight.device)
        place[index] = torch.arange(len(index), device=base.weight.device)
        layer.register_buffer("row_index", index, persistent=False)
        layer.register_buffer("row_place", place, persistent=False)
        layer.forward_adapters = types.MethodType(_forward, layer)
        layer.get_merged_weights = types.MethodType(_merged, layer)
        count += 1
    return count


def trained_rows(head: Any) -> Rows | None:
    """The trained rows of a head that has some and whose adapter is on; else None."""
    layer = getattr(head, "token_adapter", None)
    if layer is None or head.disable_adapters or not _active(layer, layer.active_adapters):
        return None
    bias = getattr(layer.get_base_layer(), "bias", None)
    return Rows(layer.trainable_tokens_delta[layer.trained_adapter], layer.row_index, bias)


def with_row_gradients(
    scores: Mapping[str, Tensor | None], hidden: Tensor, weight: Tensor, labels: Tensor, rows: Rows, rule: Any
) -> dict[str, Tensor | None]:
    """The same scores, whose `log_probs` and `entropy` also carry their gradient by the trained rows.

    Args:
        scores: what `token_scores` found for `hidden` (N, D) and `labels` (N,), each (N,) in fp32.
        weight: (V, D) with the trained rows in it; carries no gradient.
        rule: the head's ``LogitRule``.

    With z = hidden·rowᵀ, d log p(label)/dz = [label is the row's token] - p and dH/dz = -p (log p + H). Both are known
    once p is, which follows from log p(label) and the label's own logit; so k products are all it takes.
    """
    state = hidden.detach().float()
    z = state @ rows.values.float().t()  # (N, k), with the rows' gradient
    if rows.bias is not None:
        z = z + rows.bias[rows.index].float()
    log_p_label = scores["log_probs"]
    assert log_p_label is not None
    with torch.no_grad():
        mine = (state * weight[labels].float()).sum(-1)  # (N,)
        if rows.bias is not None:
            mine += rows.bias[labels].float()
        logits = rule.apply(z.detach().clone())
        lse = rule.apply(mine) - log_p_label.detach()
        log_p = logits - lse[:, None]  # (N, k)
        p = log_p.exp()
    found = dict(scores)
    slope = (labels[:, None] == rows.index).float() - p
    found["log_probs"] = _joined(log_p_label, rule.chain(slope, logits), z)
    entropy = scores.get("entropy")
    if entropy is not None:
        found["entropy"] = _joined(entropy, rule.chain(-p * (log_p + entropy.detach()[:, None]), logits), z)
    return found


@torch.no_grad()
def fold_rows(wrapper: Any) -> nn.Module:
    """The plain module under a wrapper, with the trained rows written into its weight."""
    layer = wrapper.token_adapter
    base: nn.Module = layer.get_base_layer()
    for adapter in layer.active_adapters:
        if adapter in layer.token_indices:
            write_rows(base, layer.token_indices[adapter], layer.trainable_tokens_delta[adapter])
    return base


def _joined(value: Tensor, slope: Tensor, z: Tensor) -> Tensor:
    """`value` plus nothing, whose gradient by z (N, k) is `slope`."""
    more = (slope * z).sum(-1)
    return value + (more - more.detach())


def _layers(peft: nn.Module) -> list[Any]:
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    return [module for module in peft.modules() if isinstance(module, TrainableTokensLayer)]


def _active(layer: Any, adapters: Sequence[str]) -> bool:
    return getattr(layer, "trained_adapter", None) in adapters and not layer.disable_adapters and not layer.merged


def _forward(self: Any, x: Tensor, active_adapters: Sequence[str], *args: Any, **kwargs: Any) -> Tensor:
    base = self.get_base_layer()
    plain: Tensor = base(x, *args, **kwargs)
    if not _active(self, active_adapters):
        return plain
    rows = self.trainable_tokens_delta[self.trained_adapter].to(base.weight.dtype)  # (k, D)
    if isinstance(base, nn.Embedding):
        place = self.row_place[x]  # (B, T): which trained row stands there, or -1
        own = F.embedding(place.clamp(min=0), rows)  # (B, T, D)
        scale = self._get_embed_scale()
        if scale is not None:
            own = own * scale.to(own.dtype)
        return torch.where((place >= 0)[..., None], own.to(plain.dtype), plain)
    bias = None if base.bias is None else base.bias[self.row_index]
    return plain.index_copy(-1, self.row_index, F.linear(x, rows, bias).to(plain.dtype))


@torch.no_grad()
def _merged(self: Any, active_adapters: Sequence[str]) -> Tensor:
    """The weight (V, D) with the trained rows in it, without gradient; made anew only when the rows have moved."""
    weight: Tensor = self.base_layer.weight
    if not _active(self, active_adapters):
        return weight
    rows = self.trainable_tokens_delta[self.trained_adapter]
    # Compared by value: optimizers with kernels of their own move a parameter without telling torch.
    if self.merged_copy is None or not torch.equal(self.merged_copy[0], rows):
        self.merged_copy = (rows.detach().clone(), weight.index_copy(0, self.row_index, rows.to(weight)))
    copy: Tensor = self.merged_copy[1]
    return copy
