"""Several models on the same held-out rows, a column each, with what each one costs. No torch in here.

A run's metrics carry them as ``models``: name of a column to ``{"scores": Scores.as_dict(), "cost": Cost.as_dict()}``,
either of which may be None.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from alignkit.evaluation.cells import cell, interval
from alignkit.evaluation.cost import Cost
from alignkit.evaluation.scores import Figure, Scored
from alignkit.evaluation.stored import stored

if TYPE_CHECKING:
    from rich.console import RenderableType

TEACHER = "teacher"
"""The column that the others' exact match is a share of."""

Models = Mapping[str, Mapping[str, Any]]


def kept(models: Models) -> dict[str, float]:
    """Exact match of each model as a share of the teacher's; empty where that is not known or 0."""
    match = {name: (one.get("scores") or {}).get("exact_match") for name, one in models.items()}
    whole = match.get(TEACHER)
    if not whole:
        return {}
    return {name: value / whole for name, value in match.items() if value is not None and name != TEACHER}


def several_table(models: Models) -> RenderableType:
    """The comparison for a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(_title(models), no_wrap=True)
    for name in models:
        table.add_column(Text(name), justify="right")
    for name, cells in _lines(models):
        table.add_row(Text(name), *map(Text, cells), style="dim" if name.startswith(" ") else "")
    return table


def several_markdown(models: Models) -> str:
    """The comparison for a model card."""
    lines = ["| " + " | ".join([_title(models), *models]) + " |", "|" + " --- |" + " ---: |" * len(models)]
    lines += ["| " + " | ".join([name, *cells]) + " |" for name, cells in _lines(models)]
    return "\n".join(lines) + "\n"


def _title(models: Models) -> str:
    rows = [scores.rows for scores in map(_scores, models.values()) if scores is not None]
    return f"{max(rows)} held-out rows" if rows else ""


def _lines(models: Models) -> list[tuple[str, list[str]]]:
    """Name and cells of each line: scores with their intervals, the share of the teacher's that is kept, costs."""
    lines: list[tuple[str, list[str]]] = []
    for name, row in _by_name([_figures(one) for one in models.values()]):
        lines.append((name, [cell(one) for one in row]))
        if any(one is not None and one.interval is not None for one in row):
            lines.append(("  95% interval", [interval(one) for one in row]))
    shares = kept(models)
    if shares:
        cells = [f"{100 * shares[name]:.0f}%" if name in shares else "" for name in models]
        lines.append(("of the teacher's exact match", cells))
    for name, row in _by_name([_costs(one) for one in models.values()]):
        lines.append((name, [cell(one) for one in row]))
    return lines


def _by_name(columns: list[list[Figure]]) -> list[tuple[str, list[Figure | None]]]:
    """Figures of the same name side by side, None where a column lacks it."""
    sides = [{one.name: one for one in column} for column in columns]
    return [(name, [side.get(name) for side in sides]) for name in dict.fromkeys(n for side in sides for n in side)]


def _scores(one: Mapping[str, Any]) -> Scored | None:
    return stored(one.get("scores"))


def _figures(one: Mapping[str, Any]) -> list[Figure]:
    scores = _scores(one)
    return [] if scores is None else scores.figures()


def _costs(one: Mapping[str, Any]) -> list[Figure]:
    return Cost.from_dict(one["cost"]).figures() if one.get("cost") else []
