"""LoRA that starts inside the weights without changing them: what PiSSA and OLoRA need.

Both take a low-rank part s·B0·A0 out of the weight W and train it: y = (W - s·B0·A0)·x + s·B·A·x. Writing the
difference into W rounds it (in bf16 to three digits), makes "adapter off" another model than the one that training
started from, and needs a conversion before the adapter fits the original weights. Here W stays as it is and the layer
computes the same thing in another order, y = W·x + s·(B·A - B0·A0)·x, with A0 and B0 frozen. The saved adapter is
that difference, a plain LoRA of rank 2r: exact on the untouched base.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer, LoraVariant
from peft.utils.other import transpose
from torch import nn
from torch.nn import functional as F


class ShiftedVariant(LoraVariant):
    """PEFT's hook for another forward pass of one adapter in one layer; holds A0 (r, in) and B0 (out, r)."""

    def __init__(self, first_a: torch.Tensor, first_b: torch.Tensor) -> None:
        self.first_a = first_a
        self.first_b = first_b

    def both(self, module: LoraLayer, adapter: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The difference as one LoRA of rank 2r: A (2r, in), B (out, 2r); the scale is still to be applied."""
        a: Any = module.lora_A[adapter]
        b: Any = module.lora_B[adapter]
        self.first_a, self.first_b = self.first_a.to(a.weight), self.first_b.to(b.weight)
        return torch.cat((a.weight, self.first_a)), torch.cat((b.weight, -self.first_b), dim=1)

    def delta(self, module: LoraLayer, adapter: str) -> torch.Tensor:
        """s·(B·A - B0·A0), (out, in), fp32."""
        a, b = self.both(module, adapter)
        return (b.float() @ a.float()) * module.scaling[adapter]

    def forward(  # type: ignore[override]
        self, module: Any, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        """x (…, in), result (…, out) of the base layer; dropout falls on the trained part only, as in the papers."""
        dropout = module.lora_dropout[active_adapter]
        scale = module.scaling[active_adapter]
        if isinstance(dropout, nn.Identity) or not module.training:
            a, b = self.both(module, active_adapter)
            return result + F.linear(F.linear(x, a), b) * scale
        self.both(module, active_adapter)  # brings A0 and B0 to the right device and format
        a, b = module.lora_A[active_adapter], module.lora_B[active_adapter]
        trained = F.linear(F.linear(dropout(x), a.weight), b.weight)
        return result + (trained - F.linear(F.linear(x, self.first_a), self.first_b)) * scale

    def merge_safe(self, module: Any, active_adapter: str, orig_weight: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """The weight with the difference added, a new tensor."""
        change = transpose(self.delta(module, active_adapter), module.fan_in_fan_out)
        return (orig_weight.float() + change).to(orig_weight.dtype)

    def merge_unsafe(self, module: Any, active_adapter: str, orig_weight: torch.Tensor) -> None:  # type: ignore[override]
        """The difference added to the weight in place."""
        orig_weight.data.copy_(self.merge_safe(module, active_adapter, orig_weight))

    def unmerge(self, module: Any, active_adapter: str, orig_weight: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """The weight with the difference taken out again."""
        change = transpose(self.delta(module, active_adapter), module.fan_in_fan_out)
        return (orig_weight.float() - change).to(orig_weight.dtype)


def shift_of(layer: LoraLayer, adapter: str) -> ShiftedVariant | None:
    """The shift of one adapter in one layer, if it has one."""
    variant = layer.lora_variant.get(adapter)
    return variant if isinstance(variant, ShiftedVariant) else None
