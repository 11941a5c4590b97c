"""Configurations of several architectures, tiny, and the frequencies that transformers computes from one."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.config.rope import LongRope, RopeOptions
from alignkit.models.rope import RopePlan, apply_rope, plan_rope, read_rope

SEVERAL_TYPES_OF_LONGROPE = tuple(int(part) for part in version("transformers").split(".")[:2]) >= (5, 23)
"""Whether the installed transformers reads long inputs of such a model; 5.17 raises UnboundLocalError."""
METHODS = ("linear", "ntk", "abf", "dynamic", "yarn", "longrope", "llama3")


def config_of(kind: str = "llama", **changes: Any) -> Any:
    from transformers import AutoConfig

    common = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 6}
    common |= {"max_position_embeddings": 1024, "vocab_size": 64, "pad_token_id": 0, "eos_token_id": 1}
    return AutoConfig.for_model(kind, **{**common, "bos_token_id": 2, **changes})


def options_of(method: str, config: Any = None, **changes: Any) -> RopeOptions:
    """Options of a method; of longrope, with factors that rise from 1 to 4 for the model at hand."""
    if method == "longrope" and "longrope" not in changes:
        pairs = (read_rope(config).layer.dim + 1) // 2
        changes["longrope"] = LongRope(long_factor=[1 + 3 * (i + 1) / pairs for i in range(pairs)])
    return RopeOptions(method=method, **changes)  # type: ignore[arg-type]


def stretch(config: Any, method: str, target: int, **changes: Any) -> RopePlan:
    """Plan and apply."""
    plan = plan_rope(config, options_of(method, config, **changes), target)
    apply_rope(config, plan)
    return plan


def computed(config: Any, length: int | None = None, layer: str | None = None) -> tuple[NDArray[np.float64], float]:
    """Inverse frequencies and attention factor by transformers' own functions."""
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = config.rope_parameters[layer] if layer else config.rope_parameters
    if parameters["rope_type"] == "default":
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        dim = int(head * parameters.get("partial_rotary_factor", 1.0))
        powers = torch.arange(0, dim, 2, dtype=torch.float64) / dim
        return (1.0 / parameters["rope_theta"] ** powers).numpy(), 1.0
    inverse, attention = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, None, seq_len=length, layer_type=layer)
    return inverse.double().numpy(), float(attention)
