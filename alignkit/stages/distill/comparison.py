"""Teacher, student before, student after, and a student without a teacher: scores, size and speed side by side."""

from __future__ import annotations

from typing import Any

from alignkit.runs.directory import RunDirectory

TEACHER = "evaluated_teacher"
"""Mark: scores and cost of each teacher by its name."""
COST = "cost"
"""Marks cost_before and cost_after: size and speed of the student."""
BASELINE = "baseline"
"""Mark: what plain fine-tuning of the same student gave."""


def models(run: RunDirectory) -> dict[str, Any]:
    """`models` of the metrics: each by its name to its `scores` and `cost`; nothing where nothing was evaluated."""
    found: dict[str, Any] = {}
    for name, one in ((run.read_mark(TEACHER) or {}).get("models") or {}).items():
        found[name] = one
    for when in ("before", "after"):
        scores = (run.read_mark(f"evaluated_{when}") or {}).get("scores")
        if scores:
            found[f"student {when}"] = {"scores": scores, "cost": run.read_mark(f"{COST}_{when}")}
    plain = run.read_mark(BASELINE) or {}
    if plain.get("after"):
        # The same shape as the student: what it costs was measured once.
        found["plain SFT"] = {"scores": plain["after"], "cost": run.read_mark(f"{COST}_after")}
    extra: dict[str, Any] = {"models": found} if found else {}
    if plain:
        extra["baseline"] = plain
    return extra
