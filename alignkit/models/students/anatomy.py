"""What a causal language model is made of: its layers, and which axis of which weight is a head, a neuron or a channel.

Letters: L layers, H query heads in K groups of G (one key/value head each), d head size, I neurons of an MLP,
D channels of the residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import nn

from alignkit.errors import Fault, RequestError

Axis: TypeAlias = Literal["queries", "keys", "neurons", "channels"]
"""What the positions of a weight's dimension stand for: H·d and K·d rows, I neurons, D channels."""

_GATED: dict[str, tuple[Axis, ...]] = {
    "self_attn.q_proj.weight": ("queries", "channels"),
    "self_attn.q_proj.bias": ("queries",),
    "self_attn.k_proj.weight": ("keys", "channels"),
    "self_attn.k_proj.bias": ("keys",),
    "self_attn.v_proj.weight": ("keys", "channels"),
    "self_attn.v_proj.bias": ("keys",),
    "self_attn.o_proj.weight": ("channels", "queries"),
    "self_attn.o_proj.bias": ("channels",),
    "mlp.gate_proj.weight": ("neurons", "channels"),
    "mlp.gate_proj.bias": ("neurons",),
    "mlp.up_proj.weight": ("neurons", "channels"),
    "mlp.up_proj.bias": ("neurons",),
    "mlp.down_proj.weight": ("channels", "neurons"),
    "mlp.down_proj.bias": ("channels",),
    "input_layernorm.weight": ("channels",),
    "post_attention_layernorm.weight": ("channels",),
    "pre_feedforward_layernorm.weight": ("channels",),
    "post_feedforward_layernorm.weight": ("channels",),
}
"""Weights of a layer in the Llama way of naming. Norms of single queries and keys (Qwen3, Gemma 3) have d entries, the
same for every head, and stay as they are."""

_OUTSIDE: dict[str, tuple[Axis | None, ...]] = {
    "model.embed_tokens.weight": (None, "channels"),
    "model.norm.weight": ("channels",),
    "lm_head.weight": (None, "channels"),
}

_GPT2: dict[str, tuple[Axis | None, ...]] = {
    "mlp.c_fc.weight": (None, "neurons"),  # Conv1D lies the other way round than Linear
    "mlp.c_fc.bias": ("neurons",),
    "mlp.c_proj.weight": ("neurons", None),
}


@dataclass(frozen=True)
class Family:
    """What is known of a model type, enough to make it narrower."""

    prunable: tuple[str, ...]
    """Of heads, mlp and hidden, those that its code lets have any size."""
    layer: Mapping[str, tuple[Axis | None, ...]]
    """Name of a weight within a layer to what its dimensions are; others are not touched."""
    outside: Mapping[str, tuple[Axis | None, ...]]
    """The same of weights outside the layers, by full name."""
    attention_out: str
    """Module that mixes the heads, within a layer; its input is (…, H·d)."""
    mlp_out: str
    """Module that mixes the neurons; its input is (…, I)."""
    norm_offset: float = 0.0
    """What is added to a norm's weight before it is used: Gemma keeps the difference from 1."""
    scales_embeddings: bool = False
    """Whether embeddings are multiplied by sqrt(D) (Gemma)."""


_LLAMA = Family(("heads", "mlp", "hidden"), _GATED, _OUTSIDE, "self_attn.o_proj", "mlp.down_proj")
_GEMMA = Family(
    ("heads", "mlp", "hidden"),
    _GATED,
    _OUTSIDE,
    "self_attn.o_proj",
    "mlp.down_proj",
    norm_offset=1.0,
    scales_embeddings=True,
)
FAMILIES: dict[str, Family] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "smollm3"), _LLAMA),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), _GEMMA),
    "gpt2": Family(("mlp",), _GPT2, {}, "attn.c_proj", "mlp.c_proj"),
}
"""Model type to what is known of it. Any other decoder can be made shallower, not narrower."""


@dataclass(frozen=True)
class Anatomy:
    """A model laid open."""

    model: Any
    layers: nn.ModuleList
    prefix: str
    """Full name of the list of layers: `model.layers`."""
    family: Family | None
    depth: int
    heads: int
    groups: int
    head_size: int
    neurons: int
    channels: int

    @property
    def group_size(self) -> int:
        """G, query heads that share a key and a value."""
        return self.heads // self.groups

    def mixers(self, name: Literal["attention_out", "mlp_out"]) -> list[nn.Module]:
        """The module of each layer that mixes its heads or its neurons."""
        assert self.family is not None
        return [layer.get_submodule(getattr(self.family, name)) for layer in self.layers]

    def norms(self) -> list[nn.Module]:
        """The norms that feed attention, MLP and head: what they give is what the channels are worth."""
        found = []
        for layer in self.layers:
            sandwich = hasattr(layer, "pre_feedforward_layernorm")
            found += [
                layer.get_submodule("input_layernorm"),
                layer.get_submodule("pre_feedforward_layernorm" if sandwich else "post_attention_layernorm"),
            ]
        return [*found, self.model.get_submodule("model.norm")]


def laid_open(model: Any, where: str) -> Anatomy:
    """The anatomy of ``model``. Raises RequestError, under the key ``where``, for one whose layers are not a list."""
    config = model.config
    depth = getattr(config, "num_hidden_layers", None)
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth and len({type(layer) for layer in module}) == 1
    ]
    if len(lists) != 1 or getattr(config, "is_encoder_decoder", False):
        raise RequestError(
            Fault(
                where=where,
                what=f"a {config.model_type} model is not one row of equal layers, so no student can be made from it",
                instead="Give a student of its own: model=… and distill.student.kind=given.",
            )
        )
    prefix, layers = lists[0]
    heads = int(getattr(config, "num_attention_heads", 1))
    channels = int(config.hidden_size)
    neurons = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * channels
    return Anatomy(
        model=model,
        layers=layers,
        prefix=prefix,
        family=FAMILIES.get(config.model_type),
        depth=len(layers),
        heads=heads,
        groups=int(getattr(config, "num_key_value_heads", None) or heads),
        head_size=int(getattr(config, "head_dim", None) or channels // heads),
        neurons=int(neurons),
        channels=channels,
    )


def require_prunable(anatomy: Anatomy, axes: list[Literal["heads", "mlp", "hidden"]], where: str) -> None:
    """Raises RequestError where the family does not let all of ``axes`` have another size."""
    kind = anatomy.model.config.model_type
    if anatomy.family is None:
        raise RequestError(
            Fault(
                where=f"{where}.kind",
                what=f"which weights of a {kind} model are heads and neurons is not known "
                f"(it is of {', '.join(sorted(FAMILIES))})",
                instead=f"Write {where}.kind=layers or depth.",
            )
        )
    stuck = [axis for axis in axes if axis not in anatomy.family.prunable]
    if stuck:
        raise RequestError(
            Fault(
                where=f"{where}.prune",
                what=f"the code of {kind} ties {' and '.join(stuck)} to other sizes, so that transformers could not "
                "load the student",
                instead=f"Write {where}.prune=[{', '.join(anatomy.family.prunable)}], or kind=layers or depth.",
            )
        )
