"""Scores as a manifest keeps them, back to what they were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignkit.evaluation import policy, preferences, rewarded
from alignkit.evaluation.long_context import scores as long_context
from alignkit.evaluation.long_context.scores import LongScores
from alignkit.evaluation.policy import PolicyScores
from alignkit.evaluation.preferences import PreferenceScores
from alignkit.evaluation.rewarded import RewardScores
from alignkit.evaluation.scores import Scored, Scores


def stored(plain: dict[str, Any] | None) -> Scored | None:
    """The scores that ``as_dict`` made; None for None. Demonstrations carry no kind."""
    if not plain:
        return None
    kinds: dict[Any, Any] = {
        preferences.KIND: PreferenceScores,
        rewarded.KIND: RewardScores,
        policy.KIND: PolicyScores,
        long_context.KIND: LongScores,
    }
    found: Scored = kinds.get(plain.get("kind"), Scores).from_dict(plain)
    return found


def before_and_after(metrics: Mapping[str, Any]) -> tuple[Scored | None, Scored | None]:
    """The two sets of scores among a run's metrics."""
    return stored(metrics.get("before")), stored(metrics.get("after"))
