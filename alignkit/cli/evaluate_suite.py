"""`alignkit eval MODEL suite=long-context`: what of its context a model uses; the table or one object is the answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.errors import Fault, RequestError

if TYPE_CHECKING:
    from alignkit.evaluation.long_context.recipe import LongContextEvalRecipe
    from alignkit.evaluation.long_context.scores import LongScores

ELSEWHERE = {"data", "evaluation", "reward", "answers"}
"""Sections of an evaluation on rows, which a suite does not look at."""


def asks_for_suite(overrides: Sequence[str]) -> bool:
    """Whether some word of the command line names a suite or one of its keys."""
    return any(_section(word) == "suite" for word in overrides)


def evaluate_suite(model: str, overrides: Sequence[str], recipes: Sequence[Path], *, as_json: bool) -> None:
    """Check, measure and print."""
    from alignkit.console.libraries import kept_quiet
    from alignkit.console.streams import stdout_to_stderr

    with stdout_to_stderr(), kept_quiet():
        recipe = _checked(model, overrides, recipes)
        from alignkit.evaluation.long_context.single import measure
        from alignkit.runs.digests import file_digest

        before, after = measure(recipe, digest_file=file_digest)
    _show(before, after, recipe, as_json)


def _checked(model: str, overrides: Sequence[str], recipes: Sequence[Path]) -> LongContextEvalRecipe:
    """The composed request. Raises RequestError with every fault that can be known without torch."""
    from alignkit.config.compose import compose
    from alignkit.config.search import shipped_recipes
    from alignkit.evaluation.long_context.check import data_faults
    from alignkit.evaluation.long_context.recipe import LongContextEvalRecipe
    from alignkit.models import check as model_check

    foreign = [word for word in overrides if _section(word) in ELSEWHERE]
    file = shipped_recipes() / "command" / "suite.yaml"
    words = [f"model={model}", *(word for word in overrides if word not in foreign)]
    composed = compose(str(file), words, recipes=list(recipes), schema=LongContextEvalRecipe)
    recipe = composed.recipe
    assert isinstance(recipe, LongContextEvalRecipe)
    faults = list(composed.faults)
    for word in foreign:
        text = word.partition("=")[2]
        instead = f"Write suite.text={text}, or leave it out." if word.startswith("data=") else "Leave it out."
        faults.append(Fault(where=word.partition("=")[0], what="a suite brings what it measures", instead=instead))
    faults += data_faults(recipe.suite)
    if recipe.model.name:
        faults += model_check.check(recipe.model, recipe.quantization)
    if recipe.reference is not None and recipe.reference.name:
        faults += model_check.check(recipe.reference, recipe.quantization, where="reference")
    if recipe.pictures is not None and Path(recipe.pictures).expanduser().is_file():
        faults.append(Fault(where="pictures", what=f"{recipe.pictures} is a file", instead="Name a directory."))
    if faults:
        raise RequestError(faults)
    return recipe


def _section(word: str) -> str:
    return word.partition("=")[0].lstrip("+~").partition(".")[0]


def _show(before: LongScores | None, after: LongScores, recipe: LongContextEvalRecipe, as_json: bool) -> None:
    """Table, curve and heat map, or one JSON object."""
    from alignkit.console import log
    from alignkit.evaluation.report import comparison_table

    table = comparison_table(before, after)
    if as_json:
        log.table(table)
        found: dict[str, Any] = {"model": recipe.model.name}
        if before is not None and recipe.reference is not None:
            found |= {"reference": recipe.reference.name, "before": before.as_dict()}
        print(json.dumps({**found, **after.as_dict()}, ensure_ascii=False))
    elif sys.stdout.isatty():
        from alignkit.console.tables import plain_console

        plain_console().print(table)
    else:
        print(log.as_text(table))
