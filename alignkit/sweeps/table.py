"""The closing table of a sweep: what was tried, what came out, which is the best."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from alignkit.sweeps.figures import compared, find, interval, shown, started

if TYPE_CHECKING:
    from rich.console import JustifyMethod, RenderableType

    from alignkit.sweeps.entries import Comparison, Entry

_SHOWN_CHARACTERS = 48
_UNFOLDED = 12
"""Characters of a value and of a run's name that are not broken: a key's eight digits after a short stage."""


def table(comparison: Comparison) -> RenderableType:
    """One row a point in the order in which they ran, after a row for what all of them started from."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    done = [entry for entry in comparison.entries if entry.metrics is not None]
    keys = list(comparison.entries[0].point.swept)
    figures = list(dict.fromkeys(name for entry in done for name in compared(comparison.measure, entry.metrics or {})))
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    drawn.add_column("")
    for key, name in zip(keys, _short(keys), strict=True):
        longest = max(len(cut(entry.point.swept[key])) for entry in comparison.entries)
        justify: JustifyMethod = "left" if any(_wordy(entry, key) for entry in done) else "right"
        drawn.add_column(name, overflow="fold", justify=justify, min_width=min(longest, _UNFOLDED))
    for name in figures:
        # A number is never broken; the words above it stand one below the other, so that many figures fit.
        words = re.sub(r"[ _.]", "\n", name.removeprefix("after."))
        drawn.add_column(words, justify="right", no_wrap=True)
    drawn.add_column("run", overflow="fold", min_width=_UNFOLDED if done else None)
    before = _before(done, figures)
    if any(cell != "-" for cell in before):
        drawn.add_row(*map(Text, ["before", *("" for _ in keys), *before, ""]), style="dim")
    for entry in comparison.entries:
        best = entry is comparison.winner
        cells = [_cell(name, entry.metrics) for name in figures]
        where = entry.run.name if entry.run else ""
        texts = [cut(entry.point.swept[key]) for key in keys]
        mark = "best" if best else "failed" if entry.state == "failed" else ""
        row = [mark, *texts, *cells, f"{where} (removed)" if entry.state == "removed" else where]
        drawn.add_row(*map(Text, row), style="bold" if best else "red" if entry.state == "failed" else "")
    return drawn


def _cell(name: str, metrics: Mapping[str, Any] | None) -> str:
    """A figure, and below it half of its 95% interval where it has one: the line between better and luckier."""
    if metrics is None:
        return "-"
    figure, bounds = shown(find(name, metrics)), interval(name, metrics)
    return figure if bounds is None or figure == "-" else f"{figure}\n±{(bounds[1] - bounds[0]) / 2:#.2g}"


def cut(text: str) -> str:
    """A value in a table: the end of a long one tells paths apart."""
    clean = "".join(sign if sign.isprintable() else "?" for sign in text)
    return clean if len(clean) <= _SHOWN_CHARACTERS else f"…{clean[1 - _SHOWN_CHARACTERS :]}"


def _short(keys: Sequence[str]) -> list[str]:
    """The last word of each key where that tells them apart."""
    last = [key.rpartition(".")[2] for key in keys]
    return [short if last.count(short) == 1 else key for short, key in zip(last, keys, strict=True)]


def _wordy(entry: Entry, key: str) -> bool:
    try:
        float(entry.point.swept[key])
    except ValueError:
        return True
    return False


def started_apart(comparison: Comparison) -> str:
    """A line on scores that the points did not share before they began; empty where there are none."""
    done = [entry for entry in comparison.entries if entry.metrics is not None]
    figures = dict.fromkeys(name for entry in done for name in compared(comparison.measure, entry.metrics or {}))
    apart = [
        name.removeprefix("after.").replace("_", " ")
        for name in figures
        if len({shown(started(name, entry.metrics or {})) for entry in done} - {"-"}) > 1
    ]
    told = "what is measured, or the held-out rows, differ between the points"
    return f"no common score before: {', '.join(apart)} ({told})" if apart else ""


def _before(done: Sequence[Entry], figures: Sequence[str]) -> list[str]:
    """The scores that every point started from; empty cells where they started from different ones."""
    cells = []
    for name in figures:
        found = {shown(started(name, entry.metrics or {})) for entry in done}
        cells.append(found.pop() if len(found) == 1 else "-")
    return cells
