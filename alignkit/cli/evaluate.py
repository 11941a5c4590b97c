"""`alignkit eval`: score a model on rows of data; the table, or with --json one object, is the answer on stdout."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignkit.cli.data_request import spooled_stdin
from alignkit.cli.evaluate_suite import asks_for_suite, evaluate_suite
from alignkit.cli.words import AllowCode, Quiet, Recipes, Verbose, verbosity
from alignkit.errors import Fault, RequestError
from alignkit.runs.spool import STDIN

if TYPE_CHECKING:
    from alignkit.data.rows import Kind
    from alignkit.evaluation.scores import Scored
    from alignkit.stages.reward.asked import RewardEvalRecipe

DATA = "answers of the data"
"""Over the table of what a reward says of these."""


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A run, a directory, a GGUF file, a hub name, or a name of recipes/model/."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="data=… [KEY=VALUE]...", help="data=rows.jsonl evaluation.rows=500 quantization=nf4 …"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object with every answer; the table goes to stderr.")
    ] = False,
    allow_code: AllowCode = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    recipes: Recipes = None,
) -> None:
    """Score a model on data: held-out loss, perplexity, exact match, and some answers to look at.

    Of preference pairs: how often the chosen answer is the likelier one, or with reference=MODEL the one that gained on
    that model.

    All rows of the data are scored, up to evaluation.rows; of a generated data set, its held-out rows.

    With reward=./DIR (a reward model, or any other reward) its judgement of the data's answers and of the model's own
    takes the place of losses; a reward model in the place of MODEL judges the data's answers.

    With suite=long-context, and no data: perplexity by length (suite.text=./novel.txt), passkeys by depth and length,
    keys among others and variables to follow, at suite.lengths=[4096,8192]; reference=MODEL is the model before it was
    stretched, and pictures=./DIR gets the plots.
    """
    from alignkit.console import log
    from alignkit.console.libraries import kept_quiet
    from alignkit.console.streams import stdout_to_stderr

    log.set_verbosity(verbosity(quiet, verbose))
    if asks_for_suite(overrides or []):
        evaluate_suite(model, overrides or [], recipes or [], as_json=as_json)
        return
    with stdout_to_stderr(), kept_quiet():
        recipe = _checked(model, overrides or [], recipes or [], allow_code)
        score = _scored if recipe.reward is None else _judged
        found = score(recipe, every_answer=as_json)
    _show(found, recipe, as_json)


def _scored(recipe: RewardEvalRecipe, *, every_answer: bool) -> dict[str, Scored]:
    """What the model itself says of the rows."""
    from alignkit.data.eyes.walk import kinds
    from alignkit.evaluation.single import score
    from alignkit.runs.digests import file_digest
    from alignkit.stages.dpo.single import score_pairs

    found = kinds(recipe.data)
    if found == {"preference"}:
        return {"": score_pairs(recipe, digest_file=file_digest, every_answer=every_answer)}
    _without_reference(recipe, found)
    return {"": score(recipe, digest_file=file_digest, every_answer=every_answer)}


def _judged(recipe: RewardEvalRecipe, *, every_answer: bool) -> dict[str, Scored]:
    """What a reward says of answers, by whose they are."""
    from alignkit.stages.reward.evaluate import score

    found = score(recipe, every_answer=every_answer)
    parts = {DATA: found.data, f"answers of {recipe.model.name}": found.own}
    return {name: scores for name, scores in parts.items() if scores is not None}


def _without_reference(recipe: RewardEvalRecipe, found: set[Kind]) -> None:
    """Raises RequestError for a reference that nothing would look at."""
    if recipe.reference is None:
        return
    from alignkit.data.formats.kinds import CALLED

    rows = " and ".join(sorted(CALLED[kind] for kind in found)) or "not known"
    what = f"it is what preference pairs are compared against, and the rows are {rows}"
    raise RequestError(Fault(where="reference", what=what, instead="Leave it out."))


def _checked(model: str, overrides: list[str], recipes: list[Path], allow_code: bool) -> RewardEvalRecipe:
    """The composed request. Raises RequestError with every fault that can be known without torch."""
    from alignkit.config.compose import compose
    from alignkit.config.provenance import BUILT_IN
    from alignkit.config.search import shipped_recipes
    from alignkit.data import check as data_check
    from alignkit.models import check as model_check
    from alignkit.models.context import context_length
    from alignkit.models.locating import locate
    from alignkit.stages.reward.asked import RewardEvalRecipe
    from alignkit.stages.reward.asked_check import as_judge, reward_faults

    file = shipped_recipes() / "command" / "eval.yaml"
    composed = compose(str(file), [f"model={model}", *overrides], recipes=recipes, schema=RewardEvalRecipe)
    recipe = composed.recipe
    assert isinstance(recipe, RewardEvalRecipe)
    faults = list(composed.faults)
    if recipe.data.name == STDIN and not faults:
        recipe.data.name = spooled_stdin()
    as_judge(recipe)
    if recipe.data.name or recipe.data.sources:
        wants: Kind | None = "demonstration" if recipe.reward is None else None
        faults += data_check.check(recipe.data, where="data", wants=wants)
    faults += reward_faults(recipe, allow_code)
    chosen = composed.origins["data.max_length"] != BUILT_IN
    if recipe.model.name:
        longest = recipe.data.max_length if chosen else None
        faults += model_check.check(recipe.model, recipe.quantization, max_length=longest)
    if recipe.reference is not None and recipe.reference.name:
        faults += model_check.check(recipe.reference, recipe.quantization, where="reference")
    if faults:
        raise RequestError(faults)
    context = context_length(locate(recipe.model))
    if not chosen and context is not None:  # nobody asked for the default: a short-sighted model is scored on what fits
        recipe.data.max_length = min(recipe.data.max_length, context)
    return recipe


def _show(found: dict[str, Scored], recipe: RewardEvalRecipe, as_json: bool) -> None:
    """Tables by their titles (one without a title stands alone), or one JSON object."""
    from alignkit.console import log
    from alignkit.evaluation.report import comparison_table

    tables: list[Any] = []
    for title, scores in found.items():
        tables += [title] if title else []
        kept: Any = replace(scores, answers=scores.answers[: recipe.evaluation.samples])  # type: ignore[type-var]
        tables.append(comparison_table(None, kept))
    if as_json:
        for table in tables:
            log.table(table)
        print(json.dumps(_plain(found, recipe), ensure_ascii=False))
    elif sys.stdout.isatty():
        from alignkit.console.tables import plain_console

        for table in tables:
            plain_console().print(table)
    else:
        for table in tables:
            print(log.as_text(table))


def _plain(found: dict[str, Scored], recipe: RewardEvalRecipe) -> dict[str, Any]:
    """The one object of --json."""
    names: dict[str, Any] = {"model": recipe.model.name}
    names["data"] = recipe.data.name or [one.name for one in recipe.data.sources]
    names |= {"reference": recipe.reference.name} if recipe.reference is not None else {}
    if recipe.reward is None:
        return {**names, **found[""].as_dict()}
    names["reward"] = recipe.reward.name if recipe.reward.model is None else recipe.reward.model.name
    parts = {"data" if title == DATA else "own": scores.as_dict() for title, scores in found.items()}
    return {**names, **parts}
