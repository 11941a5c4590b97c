"""What is wrong with a longer window for this model, told before anything heavy is imported."""

from __future__ import annotations

from typing import Any

from alignkit.errors import Fault, RequestError
from alignkit.evaluation.long_context.check import data_faults
from alignkit.models.context import context_length
from alignkit.models.jsonfile import read_object
from alignkit.models.locating import Source, locate
from alignkit.models.rope import rope_faults
from alignkit.models.rope.carried import noted_plan
from alignkit.stages.extend_context.recipe import Recipe


def check(recipe: Recipe) -> list[Fault]:
    """A model without rotary positions, a window that it has already, factors that do not reach the new one; and what
    the evaluation cannot read."""
    return [*_window_faults(recipe), *data_faults(recipe.evaluation.suite, "evaluation.suite")]


def _window_faults(recipe: Recipe) -> list[Fault]:
    if not recipe.model.name and not recipe.model.installed_file:
        return []
    try:
        source = locate(recipe.model)
        config = _configuration(source)
        present = context_length(source)
    except RequestError:  # said by the check of the model
        return []
    length = recipe.context.length
    if config is not None:
        return list(rope_faults(config, recipe.context, length))
    if present is not None and recipe.context.original is None and length <= present:
        return [
            Fault(
                where="context.length",
                what=f"the model takes {present} tokens already, which {length} is not above",
                instead="Write a larger length.",
            )
        ]
    return []


def _configuration(source: Source) -> dict[str, Any] | None:
    """config.json of the model, with what an adapter notes of its positions; None where there is none to read here (a
    GGUF file, a hub name)."""
    plan = noted_plan(source)
    while source.parent is not None:
        source = source.parent
    if source.kind != "directory" or source.path is None:
        return None
    config = read_object(source.path / "config.json", "model.name")
    if plan is None:
        return config
    inner = config.get("text_config")
    text = dict(inner) if isinstance(inner, dict) else config
    text |= {"rope_parameters": plan.parameters, "max_position_embeddings": plan.positions}
    return {**config, "text_config": text} if isinstance(inner, dict) else text
