"""How many tokens a model takes, read from its configuration."""

from __future__ import annotations

from alignkit.models.gguf_header import NotGGUFError, read_values
from alignkit.models.jsonfile import read_object
from alignkit.models.locating import Source
from alignkit.models.rope.carried import noted_plan
from alignkit.models.rope.reading import LENGTH_KEYS, longest_input


def context_length(source: Source) -> int | None:
    """Longest input in tokens, from config.json or the GGUF header; None when neither says (or a hub name)."""
    plan = noted_plan(source)
    if plan is not None:
        return plan.target
    if source.adapter and source.parent is not None:
        return context_length(source.parent)
    if source.path is None:
        return None
    if source.kind == "gguf":
        try:
            value = read_values(source.path, ("*.context_length",)).get("*.context_length")
        except (NotGGUFError, OSError):
            return None
        return value if isinstance(value, int) else None
    config = read_object(source.path / "config.json", "model.name")
    stretched = longest_input(config)
    if stretched is not None:
        return stretched
    for holder in (config, config.get("text_config")):
        for key in LENGTH_KEYS:
            value = holder.get(key) if isinstance(holder, dict) else None
            if isinstance(value, int):
                return value
    return None
