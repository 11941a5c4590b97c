"""The closing table of a sweep: what was tried, what came out, which is the best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignkit.sweeps.figures import compared, find, shown, started

if TYPE_CHECKING:
    from rich.console import RenderableType

    from alignkit.sweeps.entries import Comparison, Entry

_SHOWN_CHARACTERS = 48


def table(comparison: Comparison) -> RenderableType:
    """One row a point in the order in which they ran, after a row for what all of them started from."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    done = [entry for entry in comparison.entries if entry.metrics is not None]
    keys = list(comparison.entries[0].point.swept)
    figures = list(dict.fromkeys(name for entry in done for name in compared(comparison.measure, entry.metrics or {})))
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    drawn.add_column("")
    for key, name in zip(keys, _short(keys), strict=True):
        drawn.add_column(name, overflow="fold", justify="left" if any(_wordy(e, key) for e in done) else "right")
    for name in figures:
        drawn.add_column(name.removeprefix("after.").replace("_", " "), justify="right")
    drawn.add_column("run", overflow="fold")
    before = _before(done, figures)
    if any(cell != "-" for cell in before):
        drawn.add_row(*map(Text, ["before", *("" for _ in keys), *before, ""]), style="dim")
    for entry in comparison.entries:
        best = entry is comparison.winner
        cells = [shown(find(name, entry.metrics)) if entry.metrics is not None else "-" for name in figures]
        where = entry.run.name if entry.run else ""
        texts = [cut(entry.point.swept[key]) for key in keys]
        mark = "best" if best else "failed" if entry.state == "failed" else ""
        row = [mark, *texts, *cells, f"{where} (removed)" if entry.state == "removed" else where]
        drawn.add_row(*map(Text, row), style="bold" if best else "red" if entry.state == "failed" else "")
    return drawn


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


def _before(done: Sequence[Entry], figures: Sequence[str]) -> list[str]:
    """The scores that every point started from; empty cells where they started from different ones."""
    cells = []
    for name in figures:
        found = {shown(started(name, entry.metrics or {})) for entry in done}
        cells.append(found.pop() if len(found) == 1 else "-")
    return cells
