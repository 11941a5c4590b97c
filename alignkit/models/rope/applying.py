"""A plan goes into a configuration that no model was built from yet; and the names that older readers look for."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from alignkit.models.rope.plan import RopePlan


def apply_rope(config: Any, plan: RopePlan) -> None:
    """Set `plan` on a transformers configuration. On one that a model was built from it would do nothing."""
    text = config.get_text_config(decoder=True)
    parameters = copy.deepcopy(plan.parameters)
    text.rope_parameters = parameters
    text.max_position_embeddings = plan.positions
    scaled = _scaled(parameters)
    own = vars(text)
    if "original_max_position_embeddings" in own:  # Phi-3: this one counts, not the one inside
        window = scaled.get("original_max_position_embeddings", plan.original)
        text.original_max_position_embeddings = window
    for name in ("rope_theta", "rotary_emb_base", "global_rope_theta"):
        if name in own:  # left from an older file; some readers prefer it
            setattr(text, name, scaled["rope_theta"])
    text.standardize_rope_params()
    text.validate_rope()


def with_plan(values: dict[str, Any], plan: RopePlan) -> dict[str, Any]:
    """The contents of a config.json with `plan` in them, in every form that readers look for."""
    if isinstance(values.get("text_config"), dict):
        return {**values, "text_config": with_plan(values["text_config"], plan)}
    changed = {**values, "rope_parameters": copy.deepcopy(plan.parameters), "max_position_embeddings": plan.positions}
    if "original_max_position_embeddings" in values:
        scaled = _scaled(plan.parameters)
        changed["original_max_position_embeddings"] = scaled.get("original_max_position_embeddings", plan.original)
    for name in ("rope_scaling", "rope_theta", "rope_local_base_freq", "rotary_emb_base"):
        changed.pop(name, None)
    return with_older_names(changed)


def with_older_names(values: dict[str, Any]) -> dict[str, Any]:
    """config.json with `rope_theta` and `rope_scaling` beside `rope_parameters`, saying the same.

    transformers before 5, what is built on it (vLLM among them), and llama.cpp's converter of those days look for
    these, and take a theta of 10000 where they find none. Layers of several types have such names in Gemma 3 and
    OLMo 3 only; other models with them are newer than the names.
    """
    if isinstance(values.get("text_config"), dict):
        return {**values, "text_config": with_older_names(values["text_config"])}
    parameters = values.get("rope_parameters")
    if not isinstance(parameters, dict) or not parameters:
        return values
    scaled = _scaled(parameters)
    nested = scaled is not parameters
    model_type = str(values.get("model_type", "")).removesuffix("_text")
    if "rope_theta" not in scaled or (nested and model_type not in ("gemma3", "olmo3")):
        return values
    older: dict[str, Any] = {"rope_theta": scaled["rope_theta"], "rope_scaling": None}
    if scaled.get("rope_type", "default") != "default" or "mrope_section" in scaled:
        outside = ("rope_theta", "partial_rotary_factor")
        older["rope_scaling"] = {key: value for key, value in scaled.items() if key not in outside}
    if model_type == "gemma3":
        older["rope_local_base_freq"] = parameters["sliding_attention"]["rope_theta"]
    if model_type == "gpt_neox":
        older["rotary_emb_base"] = older.pop("rope_theta")
        older["rotary_pct"] = scaled.get("partial_rotary_factor", 1.0)
    elif "partial_rotary_factor" in scaled:
        older["partial_rotary_factor"] = scaled["partial_rotary_factor"]
    return {**values, **older}


def write_older_names(directory: Path) -> None:
    """`with_older_names` on the config.json of a saved model."""
    file = directory / "config.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(with_older_names(values), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _scaled(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the layers that look back all the way."""
    inner = parameters.get("full_attention")
    return inner if isinstance(inner, dict) else parameters
