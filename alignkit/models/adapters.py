"""A frozen model goes in, the same model with a trainable low-rank adapter comes out; and what it saves.

The adapter's own weights are fp32 whatever the base is: their updates are smaller than bf16 can add up.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from alignkit.config.sections import Adapter, Model
from alignkit.errors import Fault, RequestError
from alignkit.models import initialisation
from alignkit.models.adapter_files import save_adapter
from alignkit.models.fused_lora import fuse
from alignkit.models.fused_norm import fuse_norms
from alignkit.models.hardware import NAMES
from alignkit.models.loading import Loaded, load
from alignkit.models.quantized import dequantized_weight
from alignkit.models.shifted import ShiftedVariant
from alignkit.models.token_rows import install_row_passes

__all__ = ["TRAINED", "attach", "keep_adapter_in_fp32", "save_adapter", "trainable_summary"]

TRAINED = "default"
"""PEFT's name of the adapter that is trained; frozen adapters below it are called parent, parent2, …"""


def attach(loaded: Loaded, section: Adapter, *, seed: int, calibration: Iterable[dict[str, Any]] | None = None) -> Any:
    """A PeftModel on `loaded.model` with one trainable adapter, the same for the same seed.

    `calibration` are padded batches of training rows, for init=eva. Raises RequestError when nothing matches the
    targets or the rank does not fit the layers.
    """
    from peft import get_peft_model

    from alignkit.models.adapter_config import lora_config

    with torch.random.fork_rng(devices=_cuda_devices(loaded.device)):
        torch.manual_seed(seed)
        tokens = loaded.vocabulary.trained if loaded.vocabulary is not None else ()
        config = lora_config(loaded.model, section, tokens=tokens)
        if hasattr(loaded.model, "peft_config"):  # frozen adapters on a quantized base
            peft = _add_beside_parents(loaded.model, config, section)
        else:
            loaded.model.requires_grad_(False)
            peft = get_peft_model(loaded.model, config, adapter_name=TRAINED, autocast_adapter_dtype=True)
        keep_adapter_in_fp32(peft)
        _initialise(peft, loaded, section, calibration)
    if section.modules_to_save:
        _run_whole_modules_in_fp32(peft, loaded.dtype)
    fuse(peft, TRAINED)
    fuse_norms(peft)
    install_row_passes(peft, TRAINED)
    peft.train(loaded.model.training)
    return peft


def trainable_summary(model: nn.Module) -> tuple[int, int]:
    """Trainable and total parameters; a 4-bit weight counts as the numbers it stands for, not as its bytes."""
    trainable = total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        count = int(torch.Size(state.shape).numel()) if state is not None else parameter.numel()
        total += count
        trainable += count if parameter.requires_grad else 0
    return trainable, total


def keep_adapter_in_fp32(model: nn.Module) -> None:
    """Every trainable weight in fp32. Some libraries cast adapters on a quantized base to bf16; call it after them."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_floating_point() and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()


def _cuda_devices(device: torch.device) -> list[int]:
    return [device.index or 0] if device.type == "cuda" else []


def _add_beside_parents(peft: Any, config: Any, section: Adapter) -> Any:
    """The new adapter active together with the frozen ones below it, and alone trainable."""
    parents = list(peft.peft_config)
    if section.modules_to_save and any(peft.peft_config[name].modules_to_save for name in parents):
        raise RequestError(
            Fault(
                where="adapter.modules_to_save",
                what="the adapter below has modules_to_save too, and on a quantized base both cannot be active",
                instead="Leave it empty, or write quantization=none (the adapter below is then folded in).",
            )
        )
    peft.add_adapter(TRAINED, config)
    peft.base_model.set_adapter([*parents, TRAINED])
    for name, parameter in peft.named_parameters():
        parameter.requires_grad_(f".{TRAINED}." in name or name.endswith(f".{TRAINED}"))
    return peft


def _initialise(peft: Any, loaded: Loaded, section: Adapter, calibration: Iterable[dict[str, Any]] | None) -> None:
    if section.init == "eva":
        if calibration is None:
            raise ValueError("init=eva needs calibration batches")
        initialisation.eva(peft, calibration)
    elif section.init == "orthogonal":
        for _, layer in _linear_layers(peft, section.init):
            a, b = initialisation.orthogonal(layer.out_features, layer.in_features, layer.r[TRAINED])
            _set_factors(layer, a, b)
    elif section.init in ("pissa", "olora"):
        for _, layer in _linear_layers(peft, section.init):
            _shift(layer, section.init)
    elif section.init == "loftq":
        _fit_quantization_error(peft, loaded)
    if section.kind == "dora":
        for _, layer in lora_layers(peft):
            _measure_magnitude(layer)


def lora_layers(peft: nn.Module) -> list[tuple[str, Any]]:
    """Name and layer of everything that carries the trained adapter."""
    from peft.tuners.lora.layer import LoraLayer

    return [
        (name, module)
        for name, module in peft.named_modules()
        if isinstance(module, LoraLayer) and (TRAINED in module.lora_A or TRAINED in module.lora_embedding_A)
    ]


def _weight_of(layer: Any) -> torch.Tensor:
    """The frozen weight (out, in) in fp32."""
    weight = dequantized_weight(layer.get_base_layer())
    return weight.T if layer.fan_in_fan_out else weight


def _set_factors(layer: Any, a: torch.Tensor, b: torch.Tensor) -> None:
    """A (r, in) and B (out, r) into the layer, in fp32 on its device."""
    for holder, value in ((layer.lora_A[TRAINED], a), (layer.lora_B[TRAINED], b)):
        holder.weight.data = value.to(holder.weight.device, torch.float32).contiguous()


def _linear_layers(peft: nn.Module, init: str) -> list[tuple[str, Any]]:
    """The layers with the trained adapter, when all of them are linear. Raises RequestError otherwise."""
    layers = lora_layers(peft)
    if any(TRAINED not in layer.lora_A for _, layer in layers):
        raise RequestError(
            Fault(
                where="adapter.init",
                what=f"{init} is made for linear layers, and adapter.targets names an embedding",
                instead="Leave it out of adapter.targets, or write adapter.init=default.",
            )
        )
    return layers


def _shift(layer: Any, init: str) -> None:
    weight, rank, scale = _weight_of(layer), layer.r[TRAINED], layer.scaling[TRAINED]
    if rank > min(weight.shape):
        raise RequestError(
            Fault(
                where="adapter.rank",
                what=f"{init} takes {rank} directions out of a {weight.shape[0]} by {weight.shape[1]} weight",
                instead=f"Write adapter.rank={min(weight.shape)} or less, or adapter.init=default.",
            )
        )
    a, b = initialisation.pissa(weight, rank, scale) if init == "pissa" else initialisation.olora(weight, rank)
    _set_factors(layer, a, b)
    layer.lora_variant[TRAINED] = ShiftedVariant(a.clone(), b.clone())


def _fit_quantization_error(peft: Any, loaded: Loaded) -> None:
    """LoftQ needs the weights before they were quantized, so they are read again, on the CPU."""
    if loaded.source.adapter:
        raise RequestError(
            Fault(
                where="adapter.init",
                what="loftq needs the weights before quantization, and the model is an adapter on a quantized base",
                instead="Write adapter.init=default, or merge the adapter first (save=merged) and train from that.",
            )
        )
    section = Model(name=loaded.source.place, dtype=NAMES[loaded.dtype])  # type: ignore[arg-type]
    original = load(section, source=loaded.source, device="cpu").model
    for name, layer in _linear_layers(peft, "loftq"):
        inner = original.get_submodule(name.removeprefix("base_model.model."))
        quantized = _weight_of(layer)
        weight = inner.weight.detach().float().to(quantized.device)
        a, b = initialisation.loftq(weight, quantized, layer.r[TRAINED], layer.scaling[TRAINED])
        _set_factors(layer, a, b)


def _measure_magnitude(layer: Any) -> None:
    """DoRA's magnitude in fp32, so that the first forward pass gives the base's logits in any number format."""
    if TRAINED not in layer.lora_magnitude_vector:
        return
    product = layer.lora_B[TRAINED].weight @ layer.lora_A[TRAINED].weight
    magnitude = torch.linalg.norm(_weight_of(layer) + layer.scaling[TRAINED] * product, dim=1)
    vector = layer.lora_magnitude_vector[TRAINED].weight
    vector.data = magnitude.detach().reshape(vector.shape).float()


def _run_whole_modules_in_fp32(peft: nn.Module, dtype: torch.dtype) -> None:
    """Modules trained in full are fp32 inside a 16-bit model: numbers are cast on the way in and on the way out."""
    from peft.utils.other import ModulesToSaveWrapper

    if dtype == torch.float32:
        return

    def enter(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(a.float() if torch.is_tensor(a) and a.is_floating_point() else a for a in arguments)

    def leave(module: nn.Module, arguments: tuple[Any, ...], result: Any) -> Any:
        return result.to(dtype) if torch.is_tensor(result) else result

    for wrapper in peft.modules():
        if isinstance(wrapper, ModulesToSaveWrapper) and TRAINED in wrapper.modules_to_save:
            whole = wrapper.modules_to_save[TRAINED]
            if all(one.dtype == torch.float32 for one in wrapper.original_module.parameters()):
                continue  # a head that gives scores: it computes in fp32 as it is
            whole.register_forward_pre_hook(enter)
            whole.register_forward_hook(leave)
