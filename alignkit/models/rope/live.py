"""Rotary positions of a model that stands: set anew, tried for a while, or held at those of one length.

A change of the configuration of a model that was built does nothing, because rotary modules compute their frequencies
once. So the modules are built anew from the changed configuration, as loading would, and put in place of the old ones.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from alignkit.errors import RunError
from alignkit.models.rope.applying import apply_rope
from alignkit.models.rope.plan import RopePlan

FOLLOWING = ("dynamic", "longrope")
"""Types whose frequencies follow the length of the input at hand."""


@dataclass(frozen=True)
class _Place:
    """What a module has under a name: a rotary module, or an attention layer's scale of the scores."""

    holder: nn.Module
    name: str
    value: Any


def change_rope(model: nn.Module, plan: RopePlan) -> None:
    """Set `plan` on a model (bare or in a PEFT wrapper) as if it had been loaded with it.

    Raises RunError for a model whose rotary modules are not found.
    """
    places = _places(model)
    configs = {id(place.value.config): place.value.config for place in places}
    whole = getattr(model, "config", None)
    if whole is not None:  # of a model of several parts, the text's modules may have a copy
        text = whole.get_text_config(decoder=True)
        configs.setdefault(id(text), text)
    scaled = _scales(model, configs)
    for config in configs.values():
        apply_rope(config, plan)
    _put(_built_anew(places, configs))
    _put(_scales_anew(scaled, configs))


@contextmanager
def tried_rope(model: nn.Module, plan: RopePlan) -> Iterator[None]:
    """The model with `plan` while the context lasts, and as it was afterwards; its configuration stays untouched."""
    before = _places(model)
    configs = {id(place.value.config): copy.deepcopy(place.value.config) for place in before}
    scaled = _scales(model, configs)
    for config in configs.values():
        apply_rope(config, plan)
    try:
        _put(_built_anew(before, configs))
        _put(_scales_anew(scaled, configs))
        yield
    finally:
        _put(before)
        _put(scaled)


@contextmanager
def held_rope(model: nn.Module, length: int) -> Iterator[None]:
    """Frequencies of inputs of `length` tokens for every input, while the context lasts.

    Dynamic NTK and longrope choose them by the input at hand. Read in pieces with a cache, a long text would have keys
    of several frequencies in it; held, it reads like the whole text at once. Other types are left as they are.
    """
    before = [place for place in _places(model, required=False) if set(_types(place.value).values()) & set(FOLLOWING)]
    try:
        _put([_Place(place.holder, place.name, _held(place.value, length)) for place in before])
        yield
    finally:
        _put(before)


def _places(model: nn.Module, *, required: bool = True) -> list[_Place]:
    """The modules that turn positions into angles for the text model."""
    found = [
        _Place(parent, name, module)
        for parent in model.modules()
        for name, module in parent.named_children()
        if hasattr(module, "rope_type") and hasattr(module, "config") and hasattr(module.config, "rope_parameters")
    ]
    if required and not found:
        raise RunError("The model's rotary positions are not in modules of their own, so they cannot be set anew.")
    return found


def _put(places: list[_Place]) -> None:
    for place in places:
        setattr(place.holder, place.name, place.value)


def _built_anew(places: list[_Place], configs: dict[int, Any]) -> list[_Place]:
    """The rotary modules of these configurations; `configs` has the new one by the id of the one that a module has."""
    anew = []
    for place in places:
        old = place.value
        module: Any = type(old)(configs[id(old.config)])
        module.to(next(old.buffers()).device).train(old.training)
        anew.append(_Place(place.holder, place.name, module))
    return anew


def _scales(model: nn.Module, configs: Mapping[int, Any]) -> list[_Place]:
    """Scales of the scores of attention layers that take them from their rotary parameters when they are built.

    Those of DeepSeek and its kin do (mscale_all_dim), told by how they come to their keys: through a narrow projection.
    """
    return [
        _Place(module, "scaling", module.scaling)
        for module in model.modules()
        if hasattr(module, "kv_a_proj_with_mqa")
        and id(getattr(module, "config", None)) in configs
        and isinstance(getattr(module, "scaling", None), float)
        and isinstance(getattr(module, "layer_idx", None), int)
    ]


def _scales_anew(scales: list[_Place], configs: dict[int, Any]) -> list[_Place]:
    anew = []
    for place in scales:
        layer: Any = place.holder
        with torch.device("meta"):  # no memory, for one number
            other = type(layer)(configs[id(layer.config)], layer_idx=layer.layer_idx)
        anew.append(_Place(layer, place.name, other.scaling))
    return anew


def _types(module: Any) -> dict[str, str]:
    """Layer type to rope type; the name of the only one is empty."""
    return dict(module.rope_type) if isinstance(module.rope_type, dict) else {"": module.rope_type}


def _held(module: Any, length: int) -> Any:
    """A copy of a rotary module that no longer looks at the length of its input."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    held = copy.deepcopy(module)
    held.config = module.config
    for layer, kind in _types(module).items():
        if kind not in FOLLOWING:
            continue
        prefix = f"{layer}_" if layer else ""
        old = getattr(module, f"{prefix}inv_freq")
        inverse, attention = ROPE_INIT_FUNCTIONS[kind](
            module.config, old.device, seq_len=length, layer_type=layer or None
        )
        getattr(held, f"{prefix}inv_freq").copy_(inverse)
        setattr(held, f"{prefix}attention_scaling", attention)
        if layer:
            held.rope_type[layer] = "default"
        else:
            held.rope_type = "default"
    return held
