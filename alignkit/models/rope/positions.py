"""Which architectures have no rotary positions that could be stretched, and what they have instead. No torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LEARNED = ("gpt2", "gpt_bigcode", "opt", "gpt_neo", "biogpt", "openai-gpt", "ctrl", "xlm", "bert", "roberta", "xglm")
_BIAS = ("bloom", "mpt")
_STATES = ("mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm", "retnet")
_NONE = ("jamba", "nemotron_h", "granitemoehybrid")
_FIXED = ("gptj", "codegen")


def other_positions(values: Mapping[str, Any], has_parameters: bool | None) -> tuple[str, str] | None:
    """What a model has instead of rotary positions, and what to do; None where it has them.

    values: of config.json; has_parameters: whether its configuration class carries `rope_parameters`; None: not
    known, and found out from the values and from the installed transformers' code, which is not imported.
    """
    kind = str(values.get("model_type") or "unknown")
    instead = "Stretching needs rotary positions (Llama, Qwen, Mistral, Gemma, Phi and their kin have them)."
    if kind in _BIAS or values.get("alibi") is True or values.get("position_embedding_type") == "alibi":
        return f"a {kind} model biases attention by distance (ALiBi) and has no rotary positions to stretch", instead
    if kind in _STATES:
        return f"a {kind} model carries a state from token to token and has no rotary positions to stretch", instead
    if kind in _LEARNED:
        window = values.get("max_position_embeddings") or values.get("n_positions")
        learned = f"{window} absolute positions" if window else "absolute positions"
        return f"a {kind} model has {learned}, each with an embedding of its own, and none beyond them", instead
    if kind in _FIXED:
        return f"the rotary positions of a {kind} model have a fixed base, which its code takes from nowhere", instead
    if values.get("position_embedding_type") in ("nope", "absolute", "learned_absolute", "relative_key"):
        return f"this {kind} model has positions of the type {values['position_embedding_type']}", instead
    named = any(values.get(key) is not None for key in ("rope_parameters", "rope_scaling", "rope_theta"))
    if has_parameters is None:
        has_parameters = named or values.get("rotary_emb_base") is not None or _in_code(kind)
    if has_parameters:
        return None
    if kind in _NONE:
        return f"the attention of a {kind} model has no positions at all, so there is nothing to stretch", instead
    return f"the configuration of a {kind} model knows no rotary positions", instead


def _in_code(model_type: str) -> bool:
    """Whether the installed transformers' configuration of this type has `rope_parameters`, read as text."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return False
    name = model_type.replace("-", "_")
    folder = name.removesuffix("_text")
    file = Path(spec.origin).parent / "models" / folder / f"configuration_{folder}.py"
    return file.is_file() and "rope_parameters" in file.read_text(encoding="utf-8")
