"""What is wrong with a composed recipe, told by the rooms that own its models, its data and its code.

No torch, no model and no network: what `alignkit check` says, and what stops `alignkit train` before it begins.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Sequence
from typing import Any

from alignkit.config.compose import Composed
from alignkit.config.provenance import BUILT_IN
from alignkit.config.recipe import GradientRecipe, StageRecipe
from alignkit.config.sections import Data, Model
from alignkit.errors import Fault, RequestError
from alignkit.runs.spool import STDIN


def sections(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every section (dataclass) inside a recipe with its dotted name; one in a list by place: `merge.models[0]`."""
    for item in dataclasses.fields(value):
        inner = getattr(value, item.name)
        listed = enumerate(inner) if isinstance(inner, list) else ()
        found = [(f"{prefix}{item.name}[{place}]", one) for place, one in listed] or [(f"{prefix}{item.name}", inner)]
        for name, section in found:
            if dataclasses.is_dataclass(section) and not isinstance(section, type):
                yield name, section
                yield from sections(section, f"{name}.")


def room_faults(composed: Composed, allow_code: bool) -> Iterator[Fault]:
    """What the rooms that own files say about the recipe's models and data, and code that nobody allowed."""
    from alignkit.data import check as data_check
    from alignkit.models import sources as model_sources
    from alignkit.rewards.recipe import RewardSource, code_fault

    recipe = composed.recipe
    trained = recipe if isinstance(recipe, GradientRecipe) else None
    judging: set[str] = set()  # models of rewards, which may give scores
    for where, section in sections(recipe):
        if isinstance(section, Data) and (section.sources or section.name not in ("", STDIN)):
            yield from map(composed.placed, data_check.check(section, where=where, wants=recipe.wants_at(where)))
        elif isinstance(section, Model) and section.name:
            main = trained if where == "model" else None
            # The default length gives way to a model that reads less; one that was asked for does not.
            asked = composed.origins.get("data.max_length") != BUILT_IN
            found = model_sources.check(
                section,
                main.quantization if main else None,
                main.adapter if main else None,
                where=where,
                max_length=main.data.max_length if main and asked else None,
            )
            yield from map(composed.placed, found)
            if where not in judging and (trained is not None or where == "model"):
                yield from map(composed.placed, _scorer_faults(section, where))
        elif isinstance(section, RewardSource):
            judging.add(f"{where}.model")
            if section.function is not None and not allow_code:
                yield composed.placed(code_fault(section, where))
    if not composed.faults:  # a stage looks at values together, and may take each of them for what it should be
        yield from map(composed.placed, _stage_faults(recipe))
    if trained is not None:
        yield from map(composed.placed, _template_faults(trained))
    if recipe.launch.engine == "deepspeed":
        yield from map(composed.placed, _missing_engine())
    if trained is not None and trained.report_to != "none":
        yield from _missing_trackers(trained.report_to)


def _scorer_faults(section: Model, where: str) -> list[Fault]:
    """A reward model where a language model is wanted."""
    from alignkit.models.sources import locate, scorer_faults

    try:
        return scorer_faults(locate(section), where)
    except RequestError:  # said of the model itself
        return []


def _stage_faults(recipe: StageRecipe) -> list[Fault]:
    """What a stage finds in its inputs beyond each of them, where its folder has a `check.py`."""
    from importlib.util import find_spec

    module = f"alignkit.stages.{recipe.stage.replace('-', '_')}.check"
    if find_spec(module) is None:
        return []
    found: list[Fault] = importlib.import_module(module).check(recipe)
    return found


def _template_faults(recipe: GradientRecipe) -> Iterator[Fault]:
    from alignkit.data.templates.faults import template_faults
    from alignkit.models.sources import has_chat_template, locate

    try:
        known = has_chat_template(locate(recipe.model))
    except RequestError:  # said of the model itself
        known = None
    yield from template_faults(recipe.data, known)


def _missing_engine() -> Iterator[Fault]:
    from importlib.util import find_spec

    if find_spec("deepspeed") is None:
        instead = "Run pip install 'alignkit[deepspeed]', or write launch=fsdp."
        yield Fault(where="launch.engine", what="deepspeed is not installed", instead=instead)


def _missing_trackers(trackers: Sequence[str]) -> Iterator[Fault]:
    from importlib.util import find_spec

    for tracker in trackers:
        if find_spec(tracker) is None:
            yield Fault(
                where="report_to",
                what=f"{tracker} is not installed",
                instead=f"Run pip install 'alignkit[{tracker}]', or write report_to=none.",
            )
