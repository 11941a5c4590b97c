"""Figures as the cells of a table. No torch in here."""

from __future__ import annotations

import math

from alignkit.evaluation.scores import Figure


def cell(one: Figure | None) -> str:
    """A figure's value as a person reads it; a dash where there is none."""
    if one is None:
        return "–"
    return one.text or (f"{100 * one.value:.1f}%" if one.share else figure(one.value))


def interval(one: Figure | None) -> str:
    """A figure's interval; nothing where it has none."""
    if one is None or one.interval is None:
        return ""
    low, high = one.interval
    if one.signed:
        return f"{100 * low:+.0f} to {100 * high:+.0f}" if one.share else f"{low:+.3f} to {high:+.3f}"
    return f"{100 * low:.0f}–{100 * high:.0f}%" if one.share else f"{figure(low)} to {figure(high)}"


def figure(value: float) -> str:
    """Four digits that mean something: 2.731, 15.35, 1.5e+04, inf."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}" if abs(value) < 1000 else f"{value:.2e}"
