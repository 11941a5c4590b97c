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

from alignkit.models import fused_lora, fused_norm, llama_step
from alignkit.models.joint import Factors

ROWS = 64
"""Rows up to which W·xᵀ is the faster way round."""

Product = Callable[[Tensor], Tensor]


@contextmanager
def few_rows(model: nn.Module) -> Iterator[None]:
    """Let ``model`` compute so while the context lasts; the caller has turned gradients off.

    Its weights and the state of its adapters must not change meanwhile. Layers that are none of ours (quantized,
    sharded, other adapters) compute as before; under autocast, which has products of its own, all of them do.
    """
    taken: list[tuple[Any, Any]] = []
    raised = any(torch.is_autocast_enabled(kind) for kind in {one.device.type for one in model.parameters()})
    try:
        for module in model.modules() if not raised else ():
            before = vars(module).get("forward")
            product = _product(module, before)
            if product is not None:
                taken.append((module, before))
                module.forward = product
        turns, ours = llama_step.Turns(), {id(module) for module, _ in taken}
        for module in list(model.modules()) if not raised else ():
            step = _step(module, ours, turns)
            if step is not None:
                taken.append((module, None))
                module.forward = step
        yield
    finally:
        for module, before in taken:
            if before is None:
                del module.forward
            else:
                module.forward = before


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


def _step(module: Any, ours: set[int], turns: llama_step.Turns) -> Any:
    """The short forward of a decoder layer whose norms and linear layers are all among ``ours`` (ids); None: it has
    none."""
    if not llama_step.takes(module):
        return None
    norms: dict[str, Any] = {name: module.get_submodule(name) for name in llama_step.NORMS}
    layers = llama_step.linears(module)
    if not all(id(one) in ours for one in (*norms.values(), *layers.values())):
        return None
    factors: dict[str, Factors] = {}
    for name, layer in layers.items():
        found = (
            fused_lora.factors_of(layer) if hasattr(layer, "lora_A") else (layer.weight, layer.bias, None, None, 0.0)
        )
        if found is None or not _narrow(found[0]):
            return None
        factors[name] = found
    return llama_step.one_token(module, factors, {name: one.forward for name, one in norms.items()}, turns, rows=ROWS)


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
    """RMSNorm in one call, rounded once where the layer rounds twice.

    torch's RMSNorm is eight small operations on a CPU, its LayerNorm is one. The mean of x and -x together is 0 and
    their variance is the mean of x², so LayerNorm of both is RMSNorm of x.
    """
    size, both = weight.shape[0], torch.cat((weight, weight))

    def forward(x: Tensor) -> Tensor:
        return F.layer_norm(torch.cat((x, -x), -1), both.shape, both, None, epsilon)[..., :size]

    return forward


def _lora(weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Product:
    """weight (o, i), bias (o,), a (r, i) and b (o, r), both fp32."""
    dtype, narrow, inputs = weight.dtype, _narrow(weight), weight.shape[1]
    low_a, low_b, a_t, b_t = a.to(dtype), b.to(dtype), a.t(), b.t()

    def forward(x: Tensor) -> Tensor:
        flat = x.reshape(-1, inputs)  # (n, i)
        if flat.dtype != dtype:
            flat = flat.to(dtype)
        if narrow and flat.shape[0] <= ROWS:
            wide = torch.mm(weight, flat.t()).t().to(torch.float32, memory_format=torch.contiguous_format)  # (n, o)
            wide.addmm_(torch.mm(flat.float(), a_t), b_t, alpha=scale)
            if bias is not None:
                wide += bias
            y = wide.to(dtype)
        else:
            y = F.linear(flat, weight, bias)
            y.addmm_(flat @ low_a.t(), low_b.t(), alpha=scale)
        return y.view(*x.shape[:-1], -1)

    return forward
