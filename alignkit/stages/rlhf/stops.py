"""When a run ends before its last step, and which weights are its result: rules on figures, no model in here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignkit.evaluation.statistics import bootstrap_interval
from alignkit.stages.rlhf.alarms import Figures, means
from alignkit.stages.rlhf.recipe_watch import StopOptions

TRUE, REWARD = "look/true_values", "look/reward_values"
"""In metrics.jsonl: of each held-out prompt looked at what its answer is worth; null: nothing was said of it."""


@dataclass(frozen=True)
class Look:
    """What the answers to the same held-out prompts were worth at one step; NaN where a reward gave no number."""

    step: int
    """Optimizer steps done; 0: before training."""
    true: tuple[float, ...]
    reward: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Of the true metric; -inf where nothing is known, so that it never is the best."""
        known = [value for value in self.true if math.isfinite(value)]
        return math.fsum(known) / len(known) if known else -math.inf

    def line(self) -> dict[str, Any]:
        """For metrics.jsonl, which has null for NaN."""
        return {"step": self.step, TRUE: list(self.true), REWARD: list(self.reward)}

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Look | None:
        """What `line` made; None for a line of another kind."""
        if TRUE not in line or "step" not in line:
            return None
        true, reward = (tuple(math.nan if one is None else float(one) for one in line[name]) for name in (TRUE, REWARD))
        return cls(int(line["step"]), true, reward)


@dataclass(frozen=True)
class Ended:
    """A rule ended the run."""

    rule: str
    """Its name in `rlhf.stop`."""
    sentence: str


def best(looks: Sequence[Look]) -> Look | None:
    """The look at which the true metric was highest, of equals the first; None before the first look after a step."""
    return max((look for look in looks if look.step > 0), key=lambda look: (look.mean, -look.step), default=None)


def change(now: Sequence[float], before: Sequence[float]) -> tuple[float, tuple[float, float]] | None:
    """Mean change prompt by prompt, of those of which both are known, and its 95% bootstrap interval; None: of none."""
    moved = np.asarray(now, np.float64) - np.asarray(before, np.float64)
    known = moved[np.isfinite(moved)]
    return (float(known.mean()), bootstrap_interval(known)) if len(known) else None


def changes(now: Look, start: Look) -> dict[str, float]:
    """What has changed since the start, by the names of ``figures.named``; nothing at the start itself."""
    found: dict[str, float] = {}
    for name, moved in (
        ("true_change", change(now.true, start.true)),
        ("reward_change", change(now.reward, start.reward)),
    ):
        if moved is not None and now.step != start.step:
            found[name], (found[f"{name}_low"], found[f"{name}_high"]) = moved
    return found


def too_far(options: StopOptions, rollouts: Sequence[Figures]) -> Ended | None:
    """The rules on KL and entropy. ``rollouts``: the figures of all so far; the last `window` of them are averaged."""
    if len(rollouts) < options.window:
        return None
    found = means(list(rollouts[-options.window :]))
    over = "the last rollout" if options.window == 1 else f"the mean of the last {options.window} rollouts"
    kl, entropy = found.get("kl"), found.get("entropy")
    if options.kl is not None and kl is not None and kl > options.kl:
        return Ended(
            "kl", f"the KL to the reference is {kl:.3g} nats an answer ({over}), above rlhf.stop.kl={options.kl:g}"
        )
    if options.entropy is not None and entropy is not None and entropy < options.entropy:
        told = f"the entropy is {entropy:.3g} nats a token ({over}), below rlhf.stop.entropy={options.entropy:g}"
        return Ended("entropy", told)
    return None


def fallen(options: StopOptions, looks: Sequence[Look]) -> Ended | None:
    """The rule on the true metric, after the last of ``looks`` (the one before training is among them).

    It has fallen where it lies below its best by more than the allowed drop, where the interval of that difference lies
    below 0, and where the optimized reward of the same answers is no lower than it was then: both falling together is
    bad luck or a bad learning rate, and no reward that is played.
    """
    if options.true_reward_drop is None or len(looks) < 2:
        return None
    now = looks[-1]
    top = max(looks[:-1], key=lambda look: (look.mean, -look.step))
    true, reward = change(now.true, top.true), change(now.reward, top.reward)
    if true is None or reward is None or reward[0] < 0:
        return None
    moved, (low, high) = true
    if -moved <= options.true_reward_drop or high >= 0:
        return None
    return Ended(
        "true_reward_drop",
        f"the true metric has fallen by {-moved:.3g} since step {top.step} (95% interval {low:.3g} to {high:.3g}, "
        f"{len(now.true)} held-out prompts), and the optimized reward has not (it moved by {reward[0]:+.3g})",
    )


def worse_than_start(looks: Sequence[Look], chosen: Look) -> str:
    """Why the chosen weights are not worth keeping, as the end of a sentence; empty where they are: their true metric
    lies below that of the start, beyond chance."""
    start = next((look for look in looks if look.step == 0), None)
    found = change(chosen.true, start.true) if start is not None else None
    if found is None or found[1][1] >= 0:
        return ""
    moved, (low, high) = found
    return (
        f"even the best weights, those of step {chosen.step}, are worse than the start by the true metric: "
        f"{-moved:.3g} lower (95% interval {low:.3g} to {high:.3g})"
    )
