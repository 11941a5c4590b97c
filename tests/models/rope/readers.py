"""What other readers of config.json make of it, in numpy and in few words: vLLM and llama.cpp's converter and graph.

Both were read, not run: vLLM's get_rope and its classes, llama.cpp's converter (set_gguf_parameters) and ggml's rope.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.models.rope import oracles

Array = NDArray[np.float64]


def older_transformers(values: dict[str, Any]) -> dict[str, Any]:
    """The parameters that a reader finds who knows `rope_theta` and `rope_scaling` alone; a lost base is 10000."""
    scaling = values.get("rope_scaling") or {}
    return {"rope_type": "default", **scaling, "rope_theta": values.get("rope_theta", 10000.0)}


def vllm(values: dict[str, Any], dim: int, long: bool) -> tuple[Array, float]:
    """Inverse frequencies and attention factor; long: max_model_len is beyond the original window."""
    p = values["rope_parameters"]
    theta, kind = p["rope_theta"], p["rope_type"]
    if kind == "default":
        return oracles.rope(theta, dim), 1.0
    if kind == "linear":
        return oracles.linear(theta, dim, p["factor"]), 1.0
    if kind == "llama3":
        window, low, high = (p[k] for k in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"))
        return oracles.llama3(theta, dim, p["factor"], window, low, high), 1.0
    window = p["original_max_position_embeddings"]
    if kind == "yarn":
        fast, slow, rounded = p.get("beta_fast", 32), p.get("beta_slow", 1), p.get("truncate", True)
        attention = (0.1 * np.log(p["factor"]) + 1) * p.get("attn_factor", 1.0)  # attention_factor is not looked at
        return oracles.yarn(theta, dim, p["factor"], window, fast, slow, rounded), attention
    assert kind == "longrope", kind
    formula = np.sqrt(1 + np.log(values["max_position_embeddings"] / window) / np.log(window))
    which = "long" if long else "short"
    return oracles.longrope(theta, dim, np.array(p[f"{which}_factor"])), p.get(f"{which}_mscale", formula)


def llama_cpp(values: dict[str, Any], dim: int) -> tuple[Array, float]:
    """Through the keys that the converter writes into the GGUF file."""
    p = values["rope_parameters"]
    p = p.get("full_attention", p)
    base, kind = p.get("rope_theta", 10000.0), p.get("rope_type")
    if kind == "linear":
        return oracles.linear(base, dim, p["factor"]), 1.0
    if kind == "yarn":
        window = p["original_max_position_embeddings"]
        fast, slow = p.get("beta_fast", 32), p.get("beta_slow", 1)
        attention = (0.1 * np.log(p["factor"]) + 1) * p.get("attention_factor", p.get("attn_factor", 1.0))
        return oracles.yarn(base, dim, p["factor"], window, fast, slow, True), attention
    if kind == "llama3":
        window, low, high = (p[k] for k in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"))
        return oracles.llama3(base, dim, p["factor"], window, low, high), 1.0
    assert kind == "default", kind
    return oracles.rope(base, dim), 1.0
