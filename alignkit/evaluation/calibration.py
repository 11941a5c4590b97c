"""Whether rewards are as sure as they are right: reliability, its error, and its plot. N rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.evaluation.rewarded import Bin

Floats = NDArray[np.floating[Any]]
BINS = 10


def sigmoid(x: Floats) -> Floats:
    return np.asarray(np.exp(-np.logaddexp(0, -np.asarray(x, np.float64))))


def reliability(chances: Floats, count: int = BINS) -> list[Bin]:
    """Bins of how sure the rewards were, from (N,) probabilities that they gave to what was so. A probability below a
    half is one above it for the opposite, which was not so. Equal widths from 0.5 to 1; empty bins are left out."""
    chances = np.asarray(chances, np.float64)
    sure, right = np.maximum(chances, 1 - chances), (chances > 0.5) + (chances == 0.5) / 2
    edges = np.linspace(0.5, 1, count + 1)
    place = np.clip(np.digitize(sure, edges[1:-1]), 0, count - 1)
    return [
        Bin(
            low=float(edges[at]),
            high=float(edges[at + 1]),
            count=int(mine.sum()),
            said=float(sure[mine].mean()),
            found=float(right[mine].mean()),
        )
        for at in range(count)
        if (mine := place == at).any()
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: Σ |found - said| · share of the rows (Guo et al. 2017, equation 3)."""
    total = sum(one.count for one in bins)
    return sum(abs(one.found - one.said) * one.count for one in bins) / total


def reliability_text(bins: Sequence[Bin], width: int = 30) -> list[str]:
    """The reliability plot as lines: bars of how often it was so, a mark where it should end."""
    lines = ["how sure the rewards were, and how often they were right (| is where the bar should end):"]
    for one in bins:
        length, mark = round(one.found * width), min(width, round(one.said * width))
        bar = "".join("|" if at == mark else "█" if at < length else "·" for at in range(width + 1))
        lines.append(f"  {one.low:.0%}–{one.high:.0%}".ljust(12) + f" {bar} {one.found:4.0%} of {one.count:,}")
    return lines


def draw_reliability(bins: Sequence[Bin], path: Path, title: str) -> bool:
    """The same as a picture; False where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0.5, 1], [0.5, 1], linestyle="--", color="grey", label="as sure as right")
    axes.bar(
        [(one.low + one.high) / 2 for one in bins],
        [one.found for one in bins],
        width=[(one.high - one.low) * 0.9 for one in bins],
        color="tab:blue",
        alpha=0.7,
        label="right",
    )
    axes.plot([one.said for one in bins], [one.found for one in bins], "o", color="black", markersize=3)
    axes.set(xlabel="how sure the rewards were", ylabel="share right", xlim=(0.5, 1), ylim=(0, 1), title=title)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
    return True
