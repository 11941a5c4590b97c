"""MLPs and norms that take a few thousand tokens at a time: their inner values never stand for a whole long row.

An MLP's are several times as wide as the hidden state; a norm keeps four copies of it, in fp32.

Each tile is computed again in the backward pass (activation checkpointing, Chen et al. 2016, "Training deep nets with
sublinear memory cost"; by tiles along the sequence as in Bekman et al. 2025, "Arctic long sequence training", section
3.1). The outputs and the gradients of the inputs are the same; those of the weights are sums over tiles, the same
numbers added in another order.

B rows, T tokens, D hidden size.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

MLPS = ("mlp", "feed_forward", "ffn")
"""What families call the part of a layer that looks at each token by itself."""


def tiled_modules(model: nn.Module) -> Iterator[nn.Module]:
    """The MLPs and norms of a model. Mixtures of experts are none: their routers are looked at as a whole."""
    for name, module in model.named_modules():
        is_norm = type(module).__name__.endswith(("RMSNorm", "LayerNorm"))
        is_mlp = name.rpartition(".")[2] in MLPS and not any("expert" in inner for inner, _ in module.named_modules())
        if is_norm or is_mlp:
            yield module


def tile_tokenwise(model: nn.Module, tile: int) -> int:
    """Let every MLP and norm of ``model`` take at most ``tile`` tokens at once while gradients are computed; how many
    there are.

    Rows of no more tokens, passes without gradients, and norms of something else than hidden states (B, T, D) go
    through as before. Calling it again sets another tile.
    """
    count = 0
    for module in tiled_modules(model):
        _tile(module, tile)
        count += 1
    return count


def _tile(module: Any, tile: int) -> None:
    whole = getattr(module, "_untiled", None) or module.forward
    module._untiled = whole

    def forward(self: Any, hidden: Tensor) -> Tensor:
        if hidden.ndim != 3 or hidden.shape[-2] <= tile or not torch.is_grad_enabled():
            result: Tensor = whole(hidden)
            return result
        parts = [checkpoint(whole, part.contiguous(), use_reentrant=False) for part in hidden.split(tile, dim=-2)]
        return torch.cat(parts, dim=-2)

    module.forward = types.MethodType(forward, module)
