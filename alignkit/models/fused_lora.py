"""LoRA's forward and backward as few products as there are: y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ in one autograd node.

PEFT computes the same with a cast of x to fp32, a multiplication and an addition of full size per layer and direction,
and lets autograd add the two gradients by x. On a CPU, where small operations cost what they touch in memory, that is a
third of a step. Here the rank-r part is added into the base's output by the product itself (addmm), forward and
backward.

n tokens, i input and o output features, r rank.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class _LoraLinear(torch.autograd.Function):
    """Frozen weight (o, i) and bias; trained A (r, i) and B (o, r), rounded to the weight's compute format."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float, dtype: torch.dtype
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).to(dtype)  # (n, i)
        weight, a_low, b_low = weight.to(dtype), a.to(dtype), b.to(dtype)
        y = F.linear(flat, weight, None if bias is None else bias.to(dtype))  # (n, o)
        inner = flat @ a_low.t()  # (n, r)
        y.addmm_(inner, b_low.t(), alpha=scale)
        ctx.save_for_backward(flat, weight, a_low, b_low, inner)
        ctx.scale, ctx.shape, ctx.formats = scale, x.shape, (x.dtype, a.dtype, b.dtype)
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight, a, b, inner = ctx.saved_tensors
        x_format, a_format, b_format = ctx.formats
        g = gradient.reshape(-1, gradient.shape[-1]).to(weight.dtype)  # (n, o)
        by_inner = (g @ b) * ctx.scale  # (n, r)
        by_x = by_a = by_b = None
        if ctx.needs_input_grad[0]:
            by_x = (g @ weight).addmm_(by_inner, a).view(ctx.shape).to(x_format)
        if ctx.needs_input_grad[3]:
            by_a = (by_inner.t() @ flat).to(a_format)
        if ctx.needs_input_grad[4]:
            by_b = ((g.t() @ inner) * ctx.scale).to(b_format)
        return by_x, None, None, by_a, by_b, None, None


def fused_forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The forward of a layer that took the fused pass."""
    factors = None if args or kwargs else factors_of(self)
    if factors is None:
        result: Tensor = type(self).forward(self, x, *args, **kwargs)
        return result
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else factors[0].dtype
    with torch.autocast(kind, enabled=False):
        output: Tensor = _LoraLinear.apply(x, *factors, dtype)
    return output


def factors_of(layer: Any) -> tuple[Tensor, Tensor | None, Tensor, Tensor, float] | None:
    """Weight (o, i), bias (o,), A (r, i), B (o, r) and s of a LoRA layer as it stands; None where its adapter is off,
    merged, a variant, or one of several."""
    (adapter,) = layer.active_adapters if len(layer.active_adapters) == 1 else (None,)
    if layer.disable_adapters or layer.merged or adapter not in layer.lora_A or adapter in layer.lora_variant:
        return None
    base: Any = layer.get_base_layer()
    a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    return base.weight, base.bias, a, b, layer.scaling[adapter]


def fuse(peft: nn.Module, adapter: str) -> int:
    """Give every plain LoRA layer of ``adapter`` the fused pass; returns how many took it.

    Left as they are: quantized, sharded and transposed (GPT-2's Conv1D) weights, weights that are trained themselves,
    DoRA and other variants, dropout, and biases in B.
    """
    from peft.tuners.lora.layer import Linear

    count = 0
    for module in peft.modules():
        if type(module) is not Linear or adapter not in module.lora_A or adapter in module.lora_variant:
            continue
        base: Any = module.get_base_layer()
        fits = (
            type(base) is nn.Linear
            and type(base.weight) is nn.Parameter
            and not base.weight.requires_grad
            and isinstance(module.lora_dropout[adapter], nn.Identity)
            and not module.lora_bias[adapter]
        )
        if fits:
            module.forward = types.MethodType(fused_forward, module)  # type: ignore[method-assign]
            count += 1
    return count
