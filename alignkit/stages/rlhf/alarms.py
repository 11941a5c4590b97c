"""What goes wrong when a policy learns from rewards, said in words: each once, with the number and what to do about it.

Thresholds are rules of thumb: they tell a run that should be looked at from one that is as they mostly are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from alignkit.stages.rlhf.figures import NUMBER, PART

Figures: TypeAlias = Mapping[str, float]
"""Of rollouts by the names of ``figures.rollout_figures`` without their `rollout/`, of optimizer steps by the names of
the loss, of held-out prompts by those of ``figures.named``."""

WINDOW, STEPS = 3, 10
"""Rollouts, and optimizer steps, over which figures are averaged."""
FAR = 25.0
FAR_PER_TOKEN = 0.5
"""KL in nats an answer, or a token. What a reward model learned is trusted near the reference only; gold rewards fall
off somewhere beyond (Gao et al. 2023, figure 1)."""
LONGER = 1.3
LONGER_TOKENS = 8.0
FOLLOWS_LENGTH = 0.3
"""Growth of answers as a factor and in tokens, and the correlation of reward and length from which the one is paid by
the other (Singhal et al. 2023)."""
ENDLESS = 0.5
ENDLESS_MORE = 0.25
"""Share of answers that the limit cut off, and by how much it grew."""
REPEATING = 0.2
REPEATING_MORE = 0.1
"""Share of an answer's runs of four tokens that stood in it before, and by how much it grew."""
COLLAPSED = 0.1
"""Entropy as a share of what it was in the first rollout: what has it left to try?"""
LEVEL = 0.75
"""Share of the prompts whose answers are all worth the same: with RLOO, GRPO and pairs these teach nothing (Yu et al.
2025, section 3.2)."""
CLIPPED = 0.3
"""Share of the tokens whose ratio is clipped. Around 0.1 to 0.2 is usual (Huang et al. 2022, detail on debug
variables)."""
UNEXPLAINED_AFTER = 0.3
"""Share of the steps after which values that explain nothing are no beginner's trouble."""
SKIPPED = 0.1
"""Share of the answers that a reward gave no number for."""
PAID = 0.5
"""By how much one reward fell, as a share of what the sum gained."""

BY_GROUP = ("rloo", "grpo", "online-dpo")


@dataclass
class Watcher:
    """Figures go in, sentences come out. ``said`` holds the kinds that were told already: each is told once."""

    algorithm: str
    weights: Mapping[str, float] = field(default_factory=dict)
    """Of the rewards by their names."""
    apart: bool = False
    """Whether the true metric is another than what is optimized."""
    true_name: str = ""
    steps: int = 0
    """Optimizer steps of the whole run; 0: not known."""
    hold: str = "Raise rlhf.kl.coefficient, or lower optimizer.learning_rate"
    """See `Settled.hold`."""
    explores: bool = True
    """Whether the algorithm reads rlhf.entropy_coefficient."""
    said: set[str] = field(default_factory=set)
    first: Figures | None = None
    """The rollout that was drawn from the start."""
    rollouts: deque[Figures] = field(default_factory=lambda: deque(maxlen=WINDOW))
    clipped: deque[float] = field(default_factory=lambda: deque(maxlen=STEPS))

    def training(self, step: int, figures: Figures) -> dict[str, str]:
        """The line of one optimizer step in metrics.jsonl; new warnings by kind."""
        found: dict[str, str] = {}
        if NUMBER in figures:
            rolled = of_rollout(figures)
            if self.first is None:
                self.first = rolled
            self.rollouts.append(rolled)
            if len(self.rollouts) == WINDOW:
                where = f"at step {step} (mean of {WINDOW} rollouts)"
                found |= self._new(where, means(list(self.rollouts)), _OF_ROLLOUTS)
                if self.steps and step > UNEXPLAINED_AFTER * self.steps:
                    found |= self._new(where, means(list(self.rollouts)), (_unexplained,))
        clipped = clip_share(figures)
        if clipped is not None:
            self.clipped.append(clipped)
            if len(self.clipped) == STEPS:
                mean = sum(self.clipped) / STEPS
                found |= self._new(f"at step {step} (mean of {STEPS} steps)", {"clipped": mean}, (_clipped,))
        return found

    def held_out(self, where: str, figures: Figures, *, last: bool = False) -> dict[str, str]:
        """Figures of held-out prompts, ``where`` in words ("at step 100"); new warnings by kind. ``last``: after
        training, when a gain that did not come will not come."""
        checks = (_hacked, _held_out_far, *((_unearned,) if last else ()))
        return self._new(f"{where}, on held-out prompts,", figures, checks)

    def _new(self, where: str, figures: Figures, checks: tuple[Check, ...]) -> dict[str, str]:
        found: dict[str, str] = {}
        for check in checks:
            kind = check.__name__.removeprefix("_held_out").removeprefix("_")
            if kind in self.said:
                continue
            sentence = check(self, where, figures)
            if sentence:
                self.said.add(kind)
                found[kind] = sentence
        return found

    def was(self, name: str) -> float | None:
        """A figure of the first rollout."""
        return (self.first or {}).get(name)


def of_rollout(figures: Figures) -> dict[str, float]:
    """The figures of a rollout in a line of metrics.jsonl, without what stands before their names."""
    return {name.removeprefix(f"{NUMBER}/"): value for name, value in figures.items() if name.startswith(f"{NUMBER}/")}


def means(many: list[Figures]) -> dict[str, float]:
    """The mean of each figure over those that have it."""
    names = dict.fromkeys(name for one in many for name in one)
    return {name: sum(have) / len(have) for name in names if (have := [one[name] for one in many if name in one])}


def clip_share(figures: Figures) -> float | None:
    """Share of the step's tokens whose ratio was clipped, on either side; None where the loss says nothing of it."""
    sides = [figures[name] for name in ("clip_low", "clip_high") if name in figures]
    return sum(sides) if sides else None


Check: TypeAlias = Callable[[Watcher, str, Figures], str]


def _hacked(watcher: Watcher, where: str, figures: Figures) -> str:
    change, high = figures.get("true_change"), figures.get("true_change_high")
    gained = figures.get("reward_change")
    if not watcher.apart or change is None or high is None or gained is None or high >= 0 or gained <= 0:
        return ""
    return (
        f"the reward is being hacked: {where} the optimized reward has risen by {gained:.3g} since the start and the "
        f"true metric ({watcher.true_name}) has fallen by {-change:.3g} (95% interval {figures['true_change_low']:.3g} "
        f"to {high:.3g}). Read what the policy says now (rollouts.jsonl). {watcher.hold}; rlhf.stop.every with "
        "rlhf.stop.true_reward_drop=0 ends such a run and keeps its best weights; or mend the reward."
    )


def _unearned(watcher: Watcher, where: str, figures: Figures) -> str:
    low, high = figures.get("true_change_low"), figures.get("true_change_high")
    sure, gained = figures.get("reward_change_low"), figures.get("reward_change")
    if not watcher.apart or low is None or high is None or sure is None or gained is None:
        return ""
    if sure <= 0 or low > 0 or high < 0:  # the last one is `hacked`
        return ""
    return (
        f"the gain is in the reward alone: {where} the optimized reward has risen by {gained:.3g} and the true metric "
        f"({watcher.true_name}) has not moved beyond chance (95% interval of its change {low:.3g} to {high:.3g}). More "
        "held-out prompts (evaluation.rows) tell more; else the reward pays for something that you did not mean."
    )


def _held_out_far(watcher: Watcher, where: str, figures: Figures) -> str:
    low = figures.get("kl_low")
    if low is None or not (low > FAR or (low > 0 and figures.get("kl_token", 0.0) > FAR_PER_TOKEN)):
        return ""
    return _told_far(watcher, where, figures)


def _far(watcher: Watcher, where: str, figures: Figures) -> str:
    kl = figures.get("kl")
    near = kl is None or (kl < FAR and figures.get("kl_token", 0.0) < FAR_PER_TOKEN)
    return "" if near else _told_far(watcher, where, figures)


def _told_far(watcher: Watcher, where: str, figures: Figures) -> str:
    return (
        f"the policy is far from its reference: {where} the KL is {figures['kl']:.1f} nats an answer "
        f"({figures.get('kl_token', 0.0):.2f} a token). Rewards of answers that are so unlike those they were made for "
        f"mean little. {watcher.hold}; rlhf.stop.kl ends a run that goes too far."
    )


def _longer(watcher: Watcher, where: str, figures: Figures) -> str:
    length, before, follows = figures.get("length"), watcher.was("length"), figures.get("length_correlation", 0.0)
    if length is None or not before or length < LONGER * before or length - before < LONGER_TOKENS:
        return ""
    if follows < FOLLOWS_LENGTH or figures.get("reward", 0.0) <= (watcher.was("reward") or 0.0):
        return ""
    return (
        f"length grows with reward: {where} answers have {length:.0f} tokens, {before:.0f} in the first rollout "
        f"(+{100 * (length / before - 1):.0f}%), and longer ones are worth more (correlation {follows:.2f}). Take "
        "length out of the reward, or set a price on it ({name: length, weight: -0.01} among rlhf.rewards)."
    )


def _endless(watcher: Watcher, where: str, figures: Figures) -> str:
    cut, before = figures.get("truncated"), watcher.was("truncated") or 0.0
    if cut is None or cut < ENDLESS or cut - before < ENDLESS_MORE:
        return ""
    return (
        f"answers stop ending: {where} {100 * cut:.0f}% of them reach rlhf.max_new_tokens, {100 * before:.0f}% did in "
        "the first rollout. rlhf.missing_eos_penalty sets a price on it; rlhf.max_new_tokens may also be too small."
    )


def _repeating(watcher: Watcher, where: str, figures: Figures) -> str:
    share, before = figures.get("repetition"), watcher.was("repetition") or 0.0
    if share is None or share < REPEATING or share - before < REPEATING_MORE:
        return ""
    return (
        f"answers repeat themselves: {where} {100 * share:.0f}% of their runs of four tokens stood in them before, "
        f"{100 * before:.0f}% did in the first rollout. {watcher.hold}, or add {{name: repetition, weight: 1}} to "
        "rlhf.rewards."
    )


def _collapsing(watcher: Watcher, where: str, figures: Figures) -> str:
    entropy, before = figures.get("entropy"), watcher.was("entropy")
    if entropy is None or not before or entropy > COLLAPSED * before:
        return ""
    distinct = figures.get("distinct")
    more = "rlhf.entropy_coefficient keeps it open. " if watcher.explores else ""
    alike = "" if distinct is None else f", and {100 * distinct:.0f}% of the answers to one prompt are different"
    return (
        f"the policy tries nothing new: {where} its entropy is {entropy:.2g} nats a token, {before:.2g} in the first "
        f"rollout{alike}. Where the reward is near its top, this is how a run ends. Else: {more}{watcher.hold}."
    )


def _level(watcher: Watcher, where: str, figures: Figures) -> str:
    share = figures.get("level")
    if watcher.algorithm not in BY_GROUP or share is None or share < LEVEL:
        return ""
    return (
        f"most prompts teach nothing: {where} all answers to {100 * share:.0f}% of the prompts are worth the same, and "
        f"{watcher.algorithm} learns from their differences. Harder or easier prompts, more rlhf.samples, a finer "
        "reward, or rlhf.zero_variance=resample help."
    )


def _skipped(watcher: Watcher, where: str, figures: Figures) -> str:
    share = figures.get("skipped", 0.0)
    if share < SKIPPED:
        return ""
    return (
        f"many answers are not judged: {where} a reward gave no number for {100 * share:.0f}% of them, and they are "
        "left out (rlhf.on_error=skip). rollouts.jsonl says what was wrong with each."
    )


def _paid(watcher: Watcher, where: str, figures: Figures) -> str:
    parts = {name: weight for name, weight in watcher.weights.items() if weight}
    now, before = figures.get("reward"), watcher.was("reward")
    if len(parts) < 2 or now is None or before is None or now <= before:
        return ""
    gained = now - before
    key = PART.removeprefix(f"{NUMBER}/")
    moved = {
        name: weight * (figures[f"{key}{name}"] - was)
        for name, weight in parts.items()
        if f"{key}{name}" in figures and (was := watcher.was(f"{key}{name}")) is not None
    }
    if not moved or min(moved.values()) > -PAID * gained:
        return ""
    name = min(moved, key=lambda one: moved[one])
    return (
        f"one reward is paid with another: {where} their sum has risen by {gained:.3g} since the first rollout, and "
        f"what {name} adds to it has fallen by {-moved[name]:.3g}. Look at their weights (rlhf.rewards)."
    )


def _clipped(watcher: Watcher, where: str, figures: Figures) -> str:
    share = figures["clipped"]
    if share < CLIPPED:
        return ""
    return (
        f"steps are too large: {where} the ratios of {100 * share:.0f}% of the tokens are clipped, so that these teach "
        "nothing. Lower optimizer.learning_rate, or take fewer rlhf.epochs over a rollout."
    )


def _unexplained(watcher: Watcher, where: str, figures: Figures) -> str:
    share = figures.get("explained_variance")
    if share is None or share > 0:
        return ""
    return (
        f"the value function tells nothing: {where} it explains {100 * share:.0f}% of the returns' variance; a "
        "constant would do as well. Raise rlhf.value.learning_rate or rlhf.value.coefficient, or take an algorithm "
        "without one (rlhf.algorithm=rloo)."
    )


_OF_ROLLOUTS: tuple[Check, ...] = (_far, _longer, _endless, _repeating, _collapsing, _level, _skipped, _paid)
