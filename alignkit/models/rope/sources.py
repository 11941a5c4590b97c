"""What can be said of a model's rotary positions from its files alone, before anything is loaded. No torch."""

from __future__ import annotations

from typing import Any

from alignkit.config.rope import RopeOptions
from alignkit.errors import Fault
from alignkit.models.gguf_header import NotGGUFError, read_values
from alignkit.models.jsonfile import read_object
from alignkit.models.locating import Source
from alignkit.models.rope.applying import with_plan
from alignkit.models.rope.carried import noted_plan
from alignkit.models.rope.checking import rope_faults

_HEADER = {
    "general.architecture": "model_type",
    "*.context_length": "max_position_embeddings",
    "*.embedding_length": "hidden_size",
    "*.attention.head_count": "num_attention_heads",
    "*.rope.dimension_count": "head_dim",
    "*.rope.freq_base": "rope_theta",
}
"""Keys of a GGUF header, and what config.json calls the same."""


def source_faults(source: Source, options: RopeOptions, target: int) -> list[Fault]:
    """`rope_faults` of a model by its files; none for a hub name, whose files are not here yet."""
    values = source_values(source)
    return list(rope_faults(values, options, target)) if values is not None else []


def source_values(source: Source) -> dict[str, Any] | None:
    """What config.json, or the header of a GGUF file, says, with the positions that an adapter on it notes.

    None for a hub name. Raises RequestError for a config.json that cannot be read.
    """
    plan = noted_plan(source)
    while source.parent is not None:
        source = source.parent
    if source.path is None:
        return None
    if source.kind == "gguf":
        try:
            found = read_values(source.path, tuple(_HEADER))
        except (NotGGUFError, OSError):
            return None  # said by the check of the model
        values: dict[str, Any] = {_HEADER[key]: value for key, value in found.items()}
    else:
        values = read_object(source.path / "config.json", "model.name")
    return values if plan is None else with_plan(values, plan)
