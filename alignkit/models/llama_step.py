"""A decoder layer of Llama's kind while one token is written in each of a few rows, as straight as it can be.

A token of a small model is hundreds of operations on a few thousand numbers each; what is called between them takes as
long as they do. Here queries, keys and values are one product and are turned by their positions together, and modules
are not called one by one. The arithmetic is the layer's, but for roundings to bf16.

n rows, h query and k key/value heads, d head size, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignkit.models.attention import VARLEN
from alignkit.models.joint import Factors, Joint

Norm: TypeAlias = Callable[[Tensor], Tensor]

INTO = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
OUT = "self_attn.o_proj"
GATED = ("mlp.gate_proj", "mlp.up_proj")
DOWN = "mlp.down_proj"
LINEARS = (*INTO, OUT, *GATED, DOWN)
NORMS = ("input_layernorm", "post_attention_layernorm")


class Turns:
    """The sines of a token, signed as its halves are exchanged: made once for all layers."""

    def __init__(self) -> None:
        self._sin: Tensor | None = None
        self._signed: Tensor | None = None

    def signed(self, sin: Tensor) -> Tensor:
        """sin (1 or n, 1, d) -> the same with its first half negated, (1 or n, 1, 1, d)."""
        if self._sin is not sin or self._signed is None:
            half = sin.shape[-1] // 2
            self._sin, self._signed = sin, torch.cat((-sin[..., :half], sin[..., half:]), -1).unsqueeze(1)
        return self._signed


def takes(layer: Any) -> bool:
    """Whether ``layer`` is Llama's, computes as written there, and nobody looks on."""
    if (
        type(layer).__module__ != "transformers.models.llama.modeling_llama"
        or type(layer).__name__ != "LlamaDecoderLayer"
    ):
        return False
    parts = [(type(layer.self_attn).__name__, "LlamaAttention"), (type(layer.mlp).__name__, "LlamaMLP")]
    attention = getattr(layer.self_attn.config, "_attn_implementation", None)
    own = not any("forward" in vars(module) for module in (layer, layer.self_attn, layer.mlp))
    watched = any(
        module._forward_hooks or module._forward_pre_hooks
        for name, module in layer.named_modules()
        if "lora_" not in name
    )
    return own and not watched and attention in ("sdpa", VARLEN) and all(found == asked for found, asked in parts)


def one_token(layer: Any, factors: dict[str, Factors], norms: dict[str, Norm], turns: Turns, *, rows: int) -> Any:
    """The forward of ``layer``, for which `takes` holds: for one token in each of up to ``rows`` rows without padding
    it is the short one, for all else the layer's own.

    Args:
        factors: those of ``LINEARS``.
        norms: what computes ``NORMS``.
    """
    attention, act, plain = layer.self_attn, layer.mlp.act_fn, layer.forward
    into, out = Joint([factors[name] for name in INTO]), Joint([factors[OUT]])
    gated, down = Joint([factors[name] for name in GATED], turned=True), Joint([factors[DOWN]])
    first, second = (norms[name] for name in NORMS)
    d, scale, number = attention.head_dim, attention.scaling, attention.layer_idx
    both, half, middle = into.outputs[0] + into.outputs[1], attention.head_dim // 2, gated.outputs[0]
    h, k = into.outputs[0] // d, into.outputs[1] // d

    def forward(
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = False,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **kwargs: Any,
    ) -> Any:
        n, tokens, size = hidden_states.shape
        short = tokens == 1 and n <= rows and hidden_states.dtype == torch.bfloat16
        # Flags that are off come as False or None, whatever asks for more does not.
        asked = attention_mask is not None or any(value is not None and value is not False for value in kwargs.values())
        if not short or asked or past_key_values is None or position_embeddings is None:
            return plain(
                hidden_states,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                position_embeddings=position_embeddings,
                **kwargs,
            )
        x = hidden_states.view(n, size)
        projected = into(first(x))  # (n, (h + 2k)·d)
        cos, sin = position_embeddings
        turned = projected[:, :both].view(n, h + k, 1, d)
        turned = torch.addcmul(turned * cos.unsqueeze(1), turned.roll(half, -1), turns.signed(sin))
        keys, values = past_key_values.update(turned[:, h:], projected[:, both:].view(n, k, 1, d), number)
        seen = F.scaled_dot_product_attention(turned[:, :h], keys, values, scale=scale, enable_gqa=h != k)
        x = x + out(seen.reshape(n, h * d))
        wide = gated(second(x))
        x = x + down(act(wide[:, :middle]) * wide[:, middle:])
        return x.view(n, 1, size)

    return forward


def linears(layer: nn.Module) -> dict[str, Any]:
    """The layers of ``LINEARS`` by name."""
    return {name: layer.get_submodule(name) for name in LINEARS}
