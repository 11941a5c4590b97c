"""The same plots as files: a curve of perplexity by length, and heat maps of what was found."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.console import log
from alignkit.evaluation.long_context.charts import named, rows_of, tokens
from alignkit.evaluation.long_context.scores import LongScores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS = 130
"""Per inch."""
COLOURS = {"before": "#c77d00", "after": "#1a7f4b", "score": "#1a7f4b"}


def draw(before: LongScores | None, after: LongScores | None, directory: Path) -> list[Path]:
    """Write perplexity.png and retrieval.png into a directory, which is made; those with something to show.

    Without matplotlib there are none, which is said: an evaluation that took an hour is not lost for a picture.
    """
    try:
        import matplotlib  # noqa: F401 -- a third of a second; only who draws waits for it
    except ImportError:
        log.warn("no plots are written: matplotlib is not installed (pip install matplotlib)")
        return []
    sides = named(before, after)
    written = []
    directory.mkdir(parents=True, exist_ok=True)
    curves = {name: scores for name, scores in sides.items() if scores.perplexity}
    if curves:
        written.append(_saved(_curve(curves), directory / "perplexity.png"))
    maps = {name: scores for name, scores in sides.items() if rows_of(scores)}
    if maps:
        written.append(_saved(_heat_maps(maps), directory / "retrieval.png"))
    return written


def _curve(sides: dict[str, LongScores]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    lengths = sorted({one.length for scores in sides.values() for one in scores.perplexity})
    for name, scores in sides.items():
        known = [one for one in scores.perplexity if math.isfinite(one.perplexity)]
        style: dict[str, Any] = {"color": COLOURS[name], "label": name, "marker": "o"}
        axes.plot([one.length for one in known], [one.perplexity for one in known], **style)
        if scores.window is not None and lengths[0] <= scores.window <= lengths[-1]:
            axes.axvline(scores.window, color=COLOURS[name], linestyle=":", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [tokens(length) for length in lengths])
    axes.minorticks_off()
    seen = [one.perplexity for scores in sides.values() for one in scores.perplexity if math.isfinite(one.perplexity)]
    if seen and max(seen) > 10 * min(seen):
        axes.set_yscale("log")
    axes.set_xlabel("tokens read (dotted: the model's window)")
    axes.set_ylabel("perplexity of the same tokens")
    axes.grid(alpha=0.3)
    if len(sides) > 1:
        axes.legend()
    return figure


def _heat_maps(sides: dict[str, LongScores]) -> Figure:
    from matplotlib.figure import Figure

    every = {name: rows_of(scores) for name, scores in sides.items()}
    lengths = sorted({cell.length for rows in every.values() for _, cells in rows for cell in cells})
    tall = max(len(rows) for rows in every.values())
    figure = Figure(figsize=(1.6 + len(sides) * (0.8 + 0.62 * len(lengths)), 1.3 + 0.4 * tall), layout="constrained")
    for axes, (name, rows) in zip(figure.subplots(1, len(sides), squeeze=False)[0], every.items(), strict=True):
        shares = [[_share([c for c in cells if c.length == length]) for length in lengths] for _, cells in rows]
        axes.imshow(shares, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(lengths)), [tokens(length) for length in lengths])
        axes.set_yticks(range(len(rows)), [called for called, _ in rows])
        axes.set_title("found" if name == "score" else f"found {name}", fontsize=10)
        axes.set_xlabel("tokens")
        for line, row in enumerate(shares):
            for column, share in enumerate(row):
                if not math.isnan(share):
                    colour = "black" if 0.15 < share < 0.9 else "white"  # the ends of the scale are dark
                    text = f"{100 * share:.0f}%"
                    axes.text(column, line, text, ha="center", va="center", fontsize=8, color=colour)
    return figure


def _share(cells: Any) -> float:
    asked = sum(cell.asked for cell in cells)
    return sum(cell.found for cell in cells) / asked if asked else math.nan


def _saved(figure: Figure, path: Path) -> Path:
    # Nothing of the machine or the moment in the file: the same scores are the same bytes.
    figure.savefig(path, dpi=DOTS, metadata={"Software": None})
    return path
