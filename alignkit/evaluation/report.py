"""Scores as a person sees them: a table in the terminal, and Markdown for the model card. No torch in here."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from alignkit.evaluation.cells import cell, interval
from alignkit.evaluation.long_context.charts import charts
from alignkit.evaluation.long_context.scores import LongScores
from alignkit.evaluation.policy import PolicyScores
from alignkit.evaluation.preferences import PreferenceScores
from alignkit.evaluation.rewarded import RewardScores
from alignkit.evaluation.scores import Figure, Graded, Scored
from alignkit.evaluation.several import several_markdown, several_table
from alignkit.evaluation.stored import before_and_after

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

SHOWN_CHARACTERS = 320
"""Longest text of a sample in the terminal; a model card has room for more."""
CARD_CHARACTERS = 1200

# Control characters but tab and line feed, and those that turn the direction of writing.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class _Line:
    """One line of the scores: a name, a cell per model, and what changed."""

    name: str
    cells: list[str]
    change: str
    better: bool | None = None


def comparison(metrics: dict[str, Any]) -> list[RenderableType]:
    """The parts of ``comparison_table`` for a run's metrics (``before`` and ``after`` as `Scores.as_dict`, or None).

    A run that compares several models (its metrics have ``models``) shows these in one table instead of two columns.
    Empty for a run that evaluated nothing.
    """
    before, after = before_and_after(metrics)
    if not metrics.get("models"):
        return _parts(before, after)
    return [several_table(metrics["models"]), *_sample_tables(before, after)]


def comparison_table(before: Scored | None, after: Scored | None) -> RenderableType:
    """Scores and, below them, the answers kept: of one model, or of the same rows before and after.

    One of the two may be None (`alignkit eval` has one model; a base may be missing); then there is one column and
    no change.
    """
    from rich.console import Group

    return Group(*_parts(before, after))


def comparison_markdown(before: Scored | None, after: Scored | None) -> str:
    """The same as Markdown: a table, and each sample as quoted blocks. Empty when nothing was evaluated."""
    if before is None and after is None:
        return ""
    names = _columns(before, after)
    both = len(names) == 2
    header = [_title(before, after), *names, *(["change"] if both else [])]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" + " ---: |" * (len(header) - 1)]
    for line in _lines(before, after):
        lines.append("| " + " | ".join([line.name, *line.cells, *([line.change] if both else [])]) + " |")
    lines += [f"\n> **Warning:** {sentence}" for sentence in _warnings(after)]
    lines += _samples_markdown(before, after)
    return "\n".join(lines) + "\n"


def readable(text: str) -> str:
    """``text`` without characters that steer a terminal: what a model writes is not to be trusted with one."""
    return _STEERING.sub("\ufffd", text)


def shortened(text: str, limit: int) -> str:
    """At most ``limit`` characters, cut in the middle of what is too long: answers differ at both ends."""
    text = readable(text).strip()
    if len(text) <= limit:
        return text
    head = limit * 2 // 3
    return f"{text[:head].rstrip()} … {text[len(text) - (limit - head - 3) :].lstrip()}"


def metrics_markdown(metrics: dict[str, Any]) -> str:
    """``comparison_markdown`` for a run's metrics."""
    before, after = before_and_after(metrics)
    models = metrics.get("models")
    if not models:
        return comparison_markdown(before, after)
    return "\n".join([several_markdown(models).rstrip(), *_samples_markdown(before, after)]) + "\n"


def _samples_markdown(before: Scored | None, after: Scored | None) -> list[str]:
    lines: list[str] = []
    for number, pair in enumerate(_pairs(before, after), 1):
        lines += ["", f"**Sample {number}**"]
        for name, text, mark in _sample_rows(*pair, CARD_CHARACTERS):
            lines += ["", f"{name}{f' ({_WORDS[mark]})' if mark is not None else ''}:", "", _fenced(text)]
    return lines


def _parts(before: Scored | None, after: Scored | None) -> list[RenderableType]:
    if before is None and after is None:
        return []
    return [
        _scores_table(before, after),
        *_charts(before, after),
        *(_warning(sentence) for sentence in _warnings(after)),
        *_sample_tables(before, after),
    ]


def _sample_tables(before: Scored | None, after: Scored | None) -> list[RenderableType]:
    return [_sample_table(*pair) for pair in _pairs(before, after)]


_WORDS = {True: "correct", False: "wrong"}


def _warnings(scores: Scored | None) -> list[str]:
    """What looked wrong in the run that ended with these scores."""
    kinds = PreferenceScores | RewardScores | PolicyScores | LongScores
    return scores.warnings if isinstance(scores, kinds) else []


def _warning(sentence: str) -> RenderableType:
    from rich.padding import Padding
    from rich.text import Text

    return Padding(Text(f"warning: {sentence}", style="yellow"), (0, 0, 1, 1))


def _columns(before: Scored | None, after: Scored | None) -> list[str]:
    if before is not None and after is not None:
        return ["before", "after"]
    return ["score"]


def _known(before: Scored | None, after: Scored | None) -> list[Scored]:
    return [scores for scores in (before, after) if scores is not None]


def _title(before: Scored | None, after: Scored | None) -> str:
    """Over the names of the figures."""
    known = _known(before, after)
    if known and isinstance(known[-1], LongScores):
        return known[-1].title
    return f"{max((scores.rows for scores in known), default=0)} held-out rows"


def _charts(before: Scored | None, after: Scored | None) -> list[RenderableType]:
    """Drawings of scores that have some."""
    sides = [scores if isinstance(scores, LongScores) else None for scores in (before, after)]
    return charts(*sides)


def _lines(before: Scored | None, after: Scored | None) -> list[_Line]:
    """A line for each figure that any of the two has, and one below it for its interval."""
    sides = [{figure.name: figure for figure in scores.figures()} for scores in _known(before, after)]
    lines = []
    for name in dict.fromkeys(name for side in sides for name in side):
        row = _alike([side.get(name) for side in sides])
        change, better = _change(row[0], row[-1]) if len(row) == 2 else ("", None)
        lines.append(_Line(name, [cell(figure) for figure in row], change, better))
        if any(figure is not None and figure.interval is not None for figure in row):
            lines.append(_Line("  95% interval", [interval(figure) for figure in row], ""))
    return lines


def _alike(row: list[Figure | None]) -> list[Figure | None]:
    """A share beside a number that is none is shown as a number too."""
    if len({figure.share for figure in row if figure is not None}) < 2:
        return row
    return [None if figure is None else replace(figure, change="difference") for figure in row]


def _change(before: Figure | None, after: Figure | None) -> tuple[str, bool | None]:
    """What changed, in words, and whether it is for the better; nothing where one of the two is missing."""
    if before is None or after is None:
        return "", None
    a, b = before.value, after.value
    if after.change == "points":
        text = f"{100 * (b - a):+.0f} points"
    else:
        text = {"difference": _signed(b - a), "ratio": _ratio(a, b), "": ""}[after.change]
    if after.better is None:
        return text, None
    return text, _less(a, b) if after.better == "lower" else _less(b, a)


def _scores_table(before: Scored | None, after: Scored | None) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    names = _columns(before, after)
    both = len(names) == 2
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(_title(before, after), no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    if both:
        table.add_column("change", justify="right", no_wrap=True)
    for line in _lines(before, after):
        colour = {True: "green", False: "red", None: ""}[line.better]
        *older, newest = line.cells
        cells = [*map(Text, older), Text(newest, style="bold")]
        quiet = "dim" if line.name.startswith(" ") else ""
        table.add_row(Text(line.name), *cells, *([Text(line.change, style=colour)] if both else []), style=quiet)
    return table


def _pairs(before: Scored | None, after: Scored | None) -> list[tuple[Graded | None, Graded | None]]:
    """The same row before and after, whichever of the two has an answer to it."""
    # By place: both were asked the same rows in the same order, and a file may hold a row twice.
    if before is None or after is None:
        return [(None, answer) for scores in _known(before, after) for answer in scores.answers]
    return list(zip(before.answers, after.answers, strict=False))


def _sample_rows(before: Graded | None, after: Graded | None, limit: int) -> list[tuple[str, str, bool | None]]:
    """(name, text, correct) of each line of a sample."""
    known = [graded for graded in (before, after) if graded is not None]
    rows: list[tuple[str, str, bool | None]] = [("prompt", shortened(known[0].prompt, limit), None)]
    if known[0].reference is not None:
        rows.append(("expected", shortened(known[0].reference, limit), None))
    names = ["before", "after"] if len(known) == 2 else ["answer"]
    for name, graded in zip(names, known, strict=True):
        text = shortened(graded.answer, limit) or "(nothing)"
        rows.append((name, text if graded.finished else f"{text} (stopped at the token limit)", graded.correct))
    return rows


def _sample_table(before: Graded | None, after: Graded | None) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1), pad_edge=False)
    table.add_column(no_wrap=True, justify="right", style="dim", width=8)
    table.add_column(no_wrap=True, width=1)
    table.add_column(overflow="fold")
    for name, text, correct in _sample_rows(before, after, SHOWN_CHARACTERS):
        line = " ".join(text.split())  # one paragraph each: three samples should fit a screen
        table.add_row(name, _mark(correct), Text(line, style={True: "green", False: "red", None: ""}[correct]))
    table.add_row("", "", "")
    return table


def _mark(correct: bool | None) -> Text:
    from rich.text import Text

    return {None: Text(" "), True: Text("✓", style="green"), False: Text("✗", style="red")}[correct]


def _signed(value: float) -> str:
    return f"{value:+.3f}" if math.isfinite(value) else ""


def _ratio(before: float, after: float) -> str:
    if not (math.isfinite(before) and math.isfinite(after)) or not before or not after:
        return ""
    return f"÷ {before / after:.2f}" if after < before else f"× {after / before:.2f}"


def _less(before: float, after: float) -> bool | None:
    return None if before == after or math.isnan(before) or math.isnan(after) else after < before


def _fenced(text: str) -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
