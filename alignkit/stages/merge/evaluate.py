"""Did it work: parents and result on the same rows, each in a process of its own, and what the result beats."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from alignkit.config.sections import Model
from alignkit.console import log
from alignkit.runs.directory import RunDirectory
from alignkit.stages.merge.parents import sections
from alignkit.stages.merge.recipe import Recipe
from alignkit.stages.merge.scoring import scored_apart

if TYPE_CHECKING:
    from rich.console import RenderableType

EVALUATED = "evaluated"
RESULT = "result"
BROKEN = 3.0
"""A result whose perplexity is this many times that of the worst of the merged models is called broken."""


def evaluate(recipe: Recipe, run: RunDirectory) -> dict[str, Any]:
    """Metrics of the result and of its parents; empty when nothing was asked for."""
    if not recipe.evaluation.rows or recipe.data is None:
        return {}
    from alignkit.training.signals import StopRequest

    asked = {"evaluation": recipe.evaluation.decides()}
    done = run.read_mark(EVALUATED) or {}
    scores: dict[str, Any] = done.get("scores", {}) if done.get("evaluation") == asked["evaluation"] else {}
    chosen = {where: _plain(section) for where, section in sections(recipe.merge).items()}
    chosen[RESULT] = Model(name=str(run.model_path))
    names = {where: section.name for where, section in chosen.items()}
    with StopRequest().listening():
        for where, section in chosen.items():
            if where not in scores:
                log.say(f"evaluating {names[where] if where != RESULT else 'the result'}")
                scores[where] = scored_apart(section, recipe.data, recipe.evaluation)
                run.mark(EVALUATED, {**asked, "scores": scores})
    return report(scores, names)


def _plain(section: Model) -> Model:
    """What all models have in common of a merge's section."""
    return Model(**{one.name: getattr(section, one.name) for one in fields(Model)})


def report(scores: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The metrics, said aloud: which parent the result beats at what, and a warning when it is broken.

    Args:
        scores: `Scores.as_dict` of each parent by its key, and of the result.
        names: what a person calls them.
    """
    result = scores[RESULT]
    parents = {where: found for where, found in scores.items() if where != RESULT}
    beaten = {where: _beaten(result, found) for where, found in parents.items()}
    models = [float(found["perplexity"]) for where, found in parents.items() if where != "merge.base"]
    warnings = []
    worst = max(models)
    mine = float(result["perplexity"])
    if not mine <= BROKEN * worst:  # NaN too
        warnings.append(
            f"the result looks broken: its perplexity is {mine:.4g}, and that of the worst merged model {worst:.4g}"
        )
    metric = "exact_match" if all(found["graded"] for found in scores.values()) else "loss"
    best = (max if metric == "exact_match" else min)(float(found[metric]) for found in parents.values())
    metrics = {
        "before": None,
        "after": result,
        "parents": parents,
        "names": names,
        "beaten": beaten,
        "warnings": warnings,
        "headline": {"name": metric, "before": best, "after": result[metric]},
    }
    log.table(table(metrics))
    for warning in warnings:
        log.warn(warning)
    return metrics


def _beaten(result: dict[str, Any], parent: dict[str, Any]) -> list[str]:
    """What the result is better at than a parent."""
    found = []
    if float(result["loss"]) < float(parent["loss"]):
        found.append("loss")
    if result["graded"] and parent["graded"] and result["exact_match"] > parent["exact_match"]:
        found.append("exact match")
    return found


def _rows(metrics: dict[str, Any]) -> list[list[str]]:
    """Model, loss, perplexity, exact match, what the result is better at."""
    rows = []
    for where, found in [*metrics["parents"].items(), (RESULT, metrics["after"])]:
        name = "result" if where == RESULT else metrics["names"][where]
        exact = f"{found['correct']} of {found['graded']}" if found["graded"] else "–"
        beaten = "" if where == RESULT else ", ".join(metrics["beaten"][where]) or "nothing"
        figures = [f"{float(found[key]):.4g}" for key in ("loss", "perplexity")]
        rows.append([name, *figures, exact, beaten])
    return rows


HEADER = ["model", "loss", "perplexity", "exact match", "the result beats it at"]


def table(metrics: dict[str, Any]) -> RenderableType:
    """The comparison for the terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(HEADER):
        shown.add_column(name, justify="right" if 0 < place < 4 else "left", overflow="fold")
    for row in _rows(metrics):
        shown.add_row(*map(Text, row), style="bold" if row[0] == "result" else "")
    return shown


def comparison_markdown(metrics: dict[str, Any]) -> str:
    """The same for the model card; empty when nothing was evaluated."""
    if "parents" not in metrics:
        return ""
    lines = ["| " + " | ".join(HEADER) + " |", "| --- | ---: | ---: | ---: | --- |"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in _rows(metrics))])
