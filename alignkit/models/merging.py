"""Adapters folded into weights (drift.py says how far that moved the predictions)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from alignkit.errors import RunError
from alignkit.models.drift import Reference, drift
from alignkit.models.quantized import (
    dequantize_layer,
    dequantize_model,
    dequantized_weight,
    is_quantized_linear,
)
from alignkit.models.token_rows import fold_rows

__all__ = ["LINEAR", "Reference", "drift", "fold", "linear_sum"]

LINEAR = ("Linear", "Linear4bit", "Linear8bitLt")
"""PEFT's classes of LoRA layers on linear layers."""


@torch.no_grad()
def fold(model: Any, *, dtype: torch.dtype | None = None) -> Any:
    """The plain model that computes what a PeftModel does: every active adapter added to the weights, in place.

    The sum is made in fp32 and rounded once, to the format of the weights; quantized weights are dequantized first
    and rounded to `dtype` (default: the format they were quantized from). A model without an adapter is only
    dequantized. The PeftModel must not be used afterwards.
    """
    target = dtype if dtype is not None else model.dtype
    inner = model
    if hasattr(model, "peft_config"):
        inner = model.get_base_model()
        _fold_layers(inner, target)
        _take_whole_modules(inner, target)
        for mark in ("peft_config", "_hf_peft_config_loaded"):
            if mark in vars(inner):
                delattr(inner, mark)
    dequantize_model(inner, target)
    if dtype is not None and inner.dtype != dtype:
        inner.to(dtype)
    _untie_if_different(inner)
    for parameter in inner.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return inner


def _fold_layers(model: nn.Module, dtype: torch.dtype) -> None:
    from peft.tuners.lora.layer import Embedding, LoraLayer

    for name, layer in list(model.named_modules()):
        if not isinstance(layer, LoraLayer):
            continue
        base: Any = layer.get_base_layer()
        kind = type(layer).__name__
        if isinstance(layer, Embedding):
            merged = _embedding_sum(layer, base)
        elif kind in LINEAR:
            merged, bias = linear_sum(layer, base)
            if bias is not None:
                base.bias.data = bias.to(base.bias.dtype)
        else:
            raise RunError(f"{name} is a LoRA layer of kind {kind}, which cannot be folded into its weight.")
        if is_quantized_linear(base):
            base = dequantize_layer(base, merged, dtype)
        else:
            # a new parameter: the old one may be shared with a tied layer that has no adapter
            base.weight = nn.Parameter(merged.to(dtype), requires_grad=False)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, base)


def linear_sum(layer: Any, base: nn.Module) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight plus all active adapters of a LoRA layer, fp32, laid out as the weight of `base`; and what its bias
    becomes, fp32, where an adapter trained one. Neither `layer` nor `base` is changed.

    DoRA (Liu et al. 2024, equation 5) scales the row norms of W + s·B·A; PEFT adds the change it makes to the base's
    output, so several adapters add up: W + Σ change_i(W).
    """
    from alignkit.models.shifted import shift_of

    stored = dequantized_weight(base)
    weight = stored.T if layer.fan_in_fan_out else stored  # (out, in)
    total = weight.clone()
    bias: torch.Tensor | None = None
    for adapter in layer.active_adapters:
        if adapter not in layer.lora_A:
            continue
        scale = layer.scaling[adapter]
        shift = shift_of(layer, adapter)
        a, b = layer.lora_A[adapter], layer.lora_B[adapter]
        delta = shift.delta(layer, adapter) if shift else (b.weight.float() @ a.weight.float()) * scale
        if adapter in layer.lora_magnitude_vector:
            magnitude = layer.lora_magnitude_vector[adapter].weight.float().reshape(-1, 1)
            rows = magnitude / torch.linalg.norm(weight + delta, dim=1, keepdim=True)  # (out, 1)
            total += (rows - 1) * weight + rows * delta
        else:
            total += delta
        if getattr(b, "bias", None) is not None:
            bias = b.bias.float() * scale if bias is None else bias + b.bias.float() * scale
    if bias is not None:
        own: Any = getattr(base, "bias", None)
        if own is None:
            raise RunError("The adapter trained a bias for a layer that has none, so it cannot be folded in.")
        bias = own.detach().float() + bias
    return (total.T.contiguous() if layer.fan_in_fan_out else total), bias


def _embedding_sum(layer: Any, base: nn.Module) -> torch.Tensor:
    """Embedding (V, D) plus all active adapters, fp32; the factors are A (r, V) and B (D, r)."""
    if layer.lora_magnitude_vector:
        raise RunError("DoRA on an embedding cannot be folded into its weight.")
    total = dequantized_weight(base).clone()
    for adapter in layer.active_adapters:
        if adapter in layer.lora_embedding_A:
            a, b = layer.lora_embedding_A[adapter].float(), layer.lora_embedding_B[adapter].float()
            total += (b @ a).T * layer.scaling[adapter]
    return total


def _take_whole_modules(model: nn.Module, dtype: torch.dtype) -> None:
    """Modules that were trained in full, and trained rows, take the place of the originals, in their format."""
    from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper, TrainableTokensWrapper

    for name, wrapper in list(model.named_modules()):
        if not isinstance(wrapper, AuxiliaryTrainingWrapper):
            continue
        if isinstance(wrapper, TrainableTokensWrapper):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, fold_rows(wrapper))
            continue
        if not isinstance(wrapper, ModulesToSaveWrapper):
            raise RunError(f"{name} is wrapped as {type(wrapper).__name__}, which cannot be folded into the weights.")
        active = [adapter for adapter in wrapper.active_adapters if adapter in wrapper.modules_to_save]
        original: Any = wrapper.original_module
        if active:
            whole: Any = wrapper.modules_to_save[active[0]]
            for key, parameter in list(original.named_parameters()):
                trained = whole.get_parameter(key)
                owner, _, child = key.rpartition(".")
                kept = nn.Parameter(trained.detach().to(parameter.dtype), requires_grad=False)
                setattr(original.get_submodule(owner), child, kept)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, original)


def _untie_if_different(model: Any) -> None:
    """Input and output embeddings that training moved apart must be saved apart."""
    config = getattr(model, "config", None)
    if config is None or not getattr(config, "tie_word_embeddings", False):
        return
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    if inputs is None or outputs is None or inputs.weight is outputs.weight:
        return
    if torch.equal(inputs.weight, outputs.weight):
        outputs.weight = inputs.weight
        return
    config.tie_word_embeddings = False
    if hasattr(model, "all_tied_weights_keys"):
        model.all_tied_weights_keys = {}
