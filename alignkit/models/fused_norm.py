"""RMSNorm (Zhang and Sennrich 2019, equation 4) with a frozen weight as one autograd node: y = w · x / rms(x).

transformers writes it as eight small operations, and autograd answers with a dozen more; between the layers of a small
model on a CPU these are what is left to save. The arithmetic and its roundings are the same: fp32 inside, one rounding
to the input's format before the weight.

t tokens, d hidden size.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.float()  # (…, t, d)
        scale = torch.rsqrt(torch.linalg.vecdot(wide, wide).div_(x.shape[-1]).add_(epsilon)).unsqueeze(-1)  # (…, t, 1)
        ctx.save_for_backward(x, weight, scale)
        return weight * (wide * scale).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """dx = (g - x̂ · mean(g ∘ x̂)) / rms(x) with g = dy ∘ w and x̂ = x / rms(x)."""
        x, weight, scale = ctx.saved_tensors
        normed = x.float() * scale
        g = (gradient * weight).float()
        mean = torch.linalg.vecdot(g, normed).div_(x.shape[-1]).unsqueeze(-1)
        return (g - normed.mul_(mean)).mul_(scale).to(x.dtype), None, None


def fused_forward(self: Any, hidden_states: Tensor) -> Tensor:
    """The forward of a norm that took the fused pass."""
    result: Tensor = _RmsNorm.apply(hidden_states, self.weight, self.variance_epsilon)
    return result


@torch.no_grad()
def fuse_norms(model: nn.Module) -> int:
    """Give the frozen RMSNorms of ``model`` the fused pass; returns how many took it.

    Taken are modules that look like Llama's and compute what it computes, found by asking them: others (Gemma's
    weight of 1 + w, a bias, another order of roundings) give another answer to the same input and are left alone.
    """
    count = 0
    for module in model.modules():
        if not type(module).__name__.endswith("RMSNorm") or not hasattr(module, "variance_epsilon"):
            continue
        weight: Any = getattr(module, "weight", None)
        if type(weight) is not nn.Parameter or weight.requires_grad or weight.ndim != 1:
            continue
        probe = torch.linspace(-2, 3, 2 * weight.numel(), dtype=weight.dtype, device=weight.device).view(2, -1)
        plain, fused = module(probe), _RmsNorm.apply(probe, weight, module.variance_epsilon)
        if plain.dtype == fused.dtype and torch.allclose(plain.float(), fused.float(), rtol=1e-2, atol=1e-6):
            module.forward = types.MethodType(fused_forward, module)  # type: ignore[method-assign]
            count += 1
    return count
