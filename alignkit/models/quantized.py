"""Weights in 4 or 8 bits through bitsandbytes: asking for them, keeping them trainable, reading them back."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from alignkit.config.sections import Quantization
from alignkit.models.hardware import NAMES, choose_compute_dtype


def bitsandbytes_config(section: Quantization, dtype: torch.dtype) -> Any:
    """transformers' BitsAndBytesConfig for `section`; None when nothing is quantized."""
    from transformers import BitsAndBytesConfig

    if section.kind == "none":
        return None
    if section.kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=section.kind,
        bnb_4bit_use_double_quant=section.double,
        bnb_4bit_compute_dtype=choose_compute_dtype(section, dtype),
    )


def describe(model: nn.Module) -> dict[str, Any]:
    """What decides a quantized base, read from its layers: kind, double, compute_dtype, and format before it."""
    for module in model.modules():
        weight: Any = getattr(module, "weight", None)
        if type(weight).__name__ == "Int8Params":
            return {"kind": "int8"}
        if type(weight).__name__ == "Params4bit":
            compute = getattr(module, "compute_dtype", None)
            return {
                "kind": weight.quant_type,
                "double": bool(weight.quant_state.nested),
                "compute_dtype": NAMES.get(compute, "auto") if compute is not None else "auto",
                "dtype": NAMES.get(weight.quant_state.dtype, "auto"),
            }
    return {"kind": "none"}


def is_quantized_linear(module: nn.Module) -> bool:
    """Whether `module` is a bitsandbytes linear layer (told by its weight, without importing bitsandbytes)."""
    return type(getattr(module, "weight", None)).__name__ in ("Params4bit", "Int8Params")


def is_quantized(model: nn.Module) -> bool:
    """Whether any layer of `model` is quantized."""
    return any(is_quantized_linear(module) for module in model.modules())


def keep_trainable_on_cpu(model: nn.Module) -> None:
    """Shut the AVX512-BF16 trap of bitsandbytes.

    On such a CPU a forward pass in eval mode repacks a 4-bit weight for inference and the layer never goes back;
    training afterwards silently loses gradients. Without its support flag a layer stays as it is.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def dequantized_weight(module: nn.Module) -> torch.Tensor:
    """The weight of a linear layer as its forward pass sees it, in fp32, (out, in); a plain weight is just upcast."""
    weight: Any = module.weight
    kind = type(weight).__name__
    if kind == "Params4bit":
        import bitsandbytes.functional as bnb

        return bnb.dequantize_4bit(weight.data, weight.quant_state).float()
    if kind == "Int8Params":
        state: Any = getattr(module, "state", None)
        scale = weight.SCB if weight.SCB is not None else state.SCB  # (out,) largest magnitude of each row
        codes = weight.data if weight.data.dtype == torch.int8 else state.CB
        return codes.float() * (scale.float() / 127).unsqueeze(1)
    return weight.detach().float()


def dequantize_layer(module: nn.Module, weight: torch.Tensor, dtype: torch.dtype) -> nn.Linear:
    """A plain linear layer with `weight` (out, in) rounded once to `dtype`, and the bias of `module`."""
    bias = getattr(module, "bias", None)
    plain = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    plain.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    if bias is not None:
        plain.bias = nn.Parameter(bias.detach().to(dtype), requires_grad=False)
    return plain.train(module.training)


def dequantize_model(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Every quantized layer of `model` replaced, in place, by a plain one with the same weights; returns it."""
    for name, module in list(model.named_modules()):
        if is_quantized_linear(module) and isinstance(module, nn.Linear):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, dequantize_layer(module, dequantized_weight(module), dtype))
    forget_quantization(model)
    return model


def forget_quantization(model: nn.Module) -> None:
    """Take the marks of quantization off a model that has none left, so that it saves and moves as any other."""
    for mark in ("hf_quantizer", "quantization_method"):
        if mark in vars(model):
            delattr(model, mark)
    for flag in ("is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized"):
        if getattr(model, flag, False):
            setattr(model, flag, False)
    config: Any = getattr(model, "config", None)
    if config is not None and hasattr(config, "quantization_config"):
        del config.quantization_config
