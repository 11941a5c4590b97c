"""A shape becomes a config that plain transformers builds, and a number of parameters, without any weight."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from alignkit.models.attention import VARLEN
from alignkit.models.quiet import quiet_library
from alignkit.models.students.anatomy import Anatomy
from alignkit.models.students.plan import Shape


def shape_of(anatomy: Anatomy) -> Shape:
    """The teacher's own."""
    return Shape(anatomy.depth, anatomy.heads, anatomy.groups, anatomy.neurons, anatomy.channels)


def config_of(anatomy: Anatomy, shape: Shape, layers: Sequence[int]) -> Any:
    """The teacher's config with other sizes; what it says of single layers (which of them slide) follows ``layers``."""
    config = copy.deepcopy(anatomy.model.config)
    config._name_or_path = ""
    for name, value in anatomy.model.config.to_dict().items():
        if "layer" in name and isinstance(value, list) and len(value) == anatomy.depth:
            setattr(config, name, [value[layer] for layer in layers])
    config.num_hidden_layers = shape.layers
    teacher = shape_of(anatomy)
    if (shape.heads, shape.groups) != (teacher.heads, teacher.groups) or shape.channels != teacher.channels:
        config.head_dim = anatomy.head_size  # no longer channels / heads
        config.num_attention_heads, config.num_key_value_heads = shape.heads, shape.groups
    if shape.neurons != teacher.neurons:
        setattr(config, "n_inner" if hasattr(config, "n_inner") else "intermediate_size", shape.neurons)
    if shape.channels != teacher.channels:
        config.hidden_size = shape.channels
        # A norm divides by the root of a mean over the channels there are: the mean over fewer is larger by D/D', and
        # so must be what is added to it. Weights make up for the rest (cut.py).
        config.rms_norm_eps = config.rms_norm_eps * teacher.channels / shape.channels
    return config


def built(config: Any, attention: str, dtype: torch.dtype | None = None) -> Any:
    """A model of this config with new weights, on the current default device."""
    from transformers import AutoModelForCausalLM

    with quiet_library():
        return AutoModelForCausalLM.from_config(
            config, attn_implementation="sdpa" if attention == VARLEN else attention, dtype=dtype
        )


class Counter:
    """Parameters of any shape of one teacher, tied ones once."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self._pair = lru_cache(maxsize=None)(self._measured)

    def total(self, shape: Shape) -> int:
        """All of them."""
        outside, layer = self._of(shape)
        return outside + shape.layers * layer

    def in_layers(self, shape: Shape) -> int:
        """Those of the layers: neither embeddings nor head nor last norm."""
        return shape.layers * self._of(shape)[1]

    def _of(self, shape: Shape) -> tuple[int, int]:
        return self._pair(shape.heads, shape.groups, shape.neurons, shape.channels)

    def _measured(self, heads: int, groups: int, neurons: int, channels: int) -> tuple[int, int]:
        """(outside the layers, of one layer), read off a model of one layer that has no storage. Layers are alike."""
        shape = Shape(1, heads, groups, neurons, channels)
        with torch.device("meta"):
            model = built(config_of(self.anatomy, shape, [0]), "eager")
        everything = sum(parameter.numel() for parameter in model.parameters())
        layer = sum(parameter.numel() for parameter in model.get_submodule(self.anatomy.prefix).parameters())
        return everything - layer, layer
