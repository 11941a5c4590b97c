"""Linear layers while answers are written: a few rows at a time go through all of the weights.

Then the cost is reading the weights once, and what a general layer does beside that is what can be saved. On a CPU the
product x·Wᵀ of bf16 numbers lays all of W out anew for the processor's matrix unit before it multiplies; written as
W·xᵀ the few numbers of x are laid out instead, which takes half the time (up to ``ROWS`` rows; beyond, turning the
result around costs more than it saves). LoRA's own products are too small for that unit, and are quicker in fp32.

The results are those of the layers but for roundings to bf16; in fp32 they are the same numbers. For reading only.

n rows, i input and o output features, r rank.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignkit.models import fused_lora, fused_norm

ROWS = 64
"""Rows up to which W·xᵀ is the faster way round."""

Product = Callable[[Tensor], Tensor]


@contextmanager
def few_rows(model: nn.Module) -> Iterator[None]:
    """Let ``model`` compute so while the context lasts; the caller has turned gradients off.

    Its weights and the state of its adapters must not change meanwhile. Layers that are none of ours (quantized,
    sharded, other adapters) compute as before; under autocast, which has products of its own, all of them do.
    """
    taken: list[tuple[nn.Module, Any]] = []
    raised = any(torch.is_autocast_enabled(kind) for kind in {one.device.type for one in model.parameters()})
    try:
        for module in model.modules() if not raised else ():
            before = vars(module).get("forward")
            product = _product(module, before)
            if product is not None:
                taken.append((module, before))
                module.forward = product  # type: ignore[assignment]
        yield
    finally:
        for module, before in taken:
            if before is None:
                del module.forward
            else:
                module.forward = before  # type: ignore[method-assign]


def _product(module: nn.Module, before: Any) -> Product | None:
    """What takes the place of a module's forward; None: it stays."""
    if before is None:
        plain = type(module) is nn.Linear and type(module.weight) is nn.Parameter and _narrow(module.weight)
        return _linear(module.weight, module.bias) if plain else None
    given = before.__func__ if isinstance(before, types.MethodType) else None
    if given is fused_lora.fused_forward:
        factors = fused_lora.factors_of(module)
        return None if factors is None else _lora(*factors)
    norm: Any = module
    if given is fused_norm.fused_forward and _narrow(norm.weight):
        return _norm(norm.weight, norm.variance_epsilon)
    return None


def _narrow(weight: Tensor) -> bool:
    return bool(weight.device.type == "cpu" and weight.dtype == torch.bfloat16)


def _linear(weight: Tensor, bias: Tensor | None) -> Product:
    def forward(x: Tensor) -> Tensor:
        if x.dtype != weight.dtype or x.numel() > ROWS * x.shape[-1]:
            return F.linear(x, weight, bias)
        y = torch.mm(weight, x.view(-1, x.shape[-1]).t()).t().contiguous()  # (n, o)
        if bias is not None:
            y += bias
        return y.view(*x.shape[:-1], -1)

    return forward


def _norm(weight: Tensor, epsilon: float) -> Product:
    """RMSNorm in one call, rounded once where the layer rounds twice."""

    def forward(x: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, epsilon)

    return forward


def _lora(weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Product:
    """weight (o, i), bias (o,), a (r, i) and b (o, r), both fp32."""
    dtype, narrow = weight.dtype, _narrow(weight)
    low_a, low_b = a.to(dtype), b.to(dtype)

    def forward(x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).to(dtype)  # (n, i)
        if narrow and len(flat) <= ROWS:
            wide = torch.mm(weight, flat.t()).t().to(torch.float32, memory_format=torch.contiguous_format)  # (n, o)
            wide.addmm_(flat.float() @ a.t(), b.t(), alpha=scale)
            if bias is not None:
                wide += bias
            y = wide.to(dtype)
        else:
            y = F.linear(flat, weight, bias)
            y.addmm_(flat @ low_a.t(), low_b.t(), alpha=scale)
        return y.view(*x.shape[:-1], -1)

    return forward
