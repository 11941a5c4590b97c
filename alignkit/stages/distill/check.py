"""What is wrong with a distillation's inputs, told by their names and files: before a run is opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from alignkit.config.sections import Adapter
from alignkit.errors import Fault
from alignkit.models.check import combination_faults
from alignkit.stages.distill.recipe import DistillOptions, Recipe
from alignkit.teachers.recipe import cache_faults, cache_layout


def check(recipe: Recipe) -> list[Fault]:
    """Every fault that needs no model to be read."""
    options = recipe.distill
    found: list[Fault] = []
    if options.cache is not None:
        absent = list(cache_faults(options.cache, "distill.cache"))
        found += absent or objective_faults(options, cache_layout(options.cache))
    if options.teacher is not None:
        for fault in combination_faults(options.teacher, options.teacher.quantization, Adapter()):
            if fault.where.startswith("quantization"):
                found.append(replace(fault, where=f"distill.teacher.{fault.where}"))
    return found


def objective_faults(options: DistillOptions, layout: Mapping[str, Any]) -> Iterator[Fault]:
    """What is asked of a cache that it does not hold. ``layout``: what it says of itself."""
    written = layout.get("temperature", options.temperature)
    if written != options.temperature:
        yield Fault(
            where="distill.temperature",
            what=f"is {options.temperature:g}, and the cache was written at {written:g}",
            instead=f"Write distill.temperature={written:g}, or write a cache at the other one (cache.temperature).",
        )
    if layout.get("kind") == "sampled" and options.divergence != "forward-kl":
        yield Fault(
            where="distill.divergence",
            what=f"the cache holds random samples, which are unbiased for forward-kl and not for {options.divergence}",
            instead="Write distill.divergence=forward-kl, or a cache with cache.kind=top-k.",
        )
