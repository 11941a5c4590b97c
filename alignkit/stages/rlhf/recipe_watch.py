"""Options of watching an rlhf run: what is looked at, and when it ends before its last step. No torch in here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt

from alignkit.config.sections import Evaluation
from alignkit.errors import Fault


@dataclass(kw_only=True)
class StopOptions:
    """When a run ends before its last step, and which weights are its result then: those that the held-out true metric
    liked best. A run that a rule ended is a result like any other; its manifest says `stopped_by`."""

    every: Annotated[int, Ge(1)] | None = None
    """Optimizer steps between looks at the true metric on held-out prompts; null: no look. Every rule needs them."""
    rows: Annotated[int, Ge(2)] = 64
    """Held-out prompts to look at, the last ones: where there are enough, others than the evaluation's."""
    kl: Annotated[float, Gt(0)] | None = None
    """Stop when the KL to the reference, in nats an answer, is above this (mean of the last `window` rollouts)."""
    entropy: Annotated[float, Gt(0)] | None = None
    """Stop when the policy's entropy, in nats a token, is below this (mean of the last `window` rollouts)."""
    true_reward_drop: Annotated[float, Ge(0)] | None = None
    """Stop when the true metric of the held-out prompts has fallen from its best by more than this, beyond chance (95%
    interval of the difference, prompt by prompt), while the optimized reward of the same answers has not."""
    window: Annotated[int, Ge(1)] = 3
    """Rollouts over which `kl` and `entropy` are averaged."""
    keep: Literal["last", "best"] = "last"
    """The result of a run that no rule ended: its last weights, or those that the true metric liked best."""

    @property
    def wants_best(self) -> bool:
        """Whether the best weights may become the result."""
        return self.keep == "best" or any(rule is not None for rule in (self.kl, self.entropy, self.true_reward_drop))


@dataclass(kw_only=True)
class PolicyEvaluation(Evaluation):
    """The same held-out prompts before and after training, answered anew: what are the answers worth, and how far did
    the policy go for it?"""

    max_new_tokens: Annotated[int, Ge(1)] | None = None  # type: ignore[assignment]
    """Longest answer in tokens; null: as rlhf.max_new_tokens, which is what the policy learns to keep to."""
    answers: Literal["drawn", "greedy"] = "drawn"
    """What is judged: answers drawn at temperature 1, the same chances before and after; or the likeliest ones. The KL,
    lengths and repetitions are always those of drawn answers."""

    def decides(self) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in ("rows", "samples", "max_new_tokens")}
        return {**found, "answers": self.answers}


def watch_faults(
    stop: StopOptions, *, holdout: float, patience: int | None, true_reward: bool, where: str = "rlhf.stop"
) -> Iterator[Fault]:
    """What cannot work. ``true_reward``: whether a true metric apart from the optimized rewards is given."""
    rules = [name for name in ("kl", "entropy", "true_reward_drop") if getattr(stop, name) is not None]
    if stop.every is None:
        for name in rules:
            yield Fault(
                where=f"{where}.{name}",
                what="what a rule keeps are the weights that the held-out true metric liked best, and nothing looks at "
                "it while training",
                instead=f"Write {where}.every=20, the optimizer steps between looks.",
            )
        if stop.keep == "best":
            yield Fault(
                where=f"{where}.keep",
                what="the best weights are found by looks at the held-out true metric, and there are none",
                instead=f"Write {where}.every=20, or {where}.keep=last.",
            )
    elif not holdout:
        yield Fault(
            where=f"{where}.every",
            what="the true metric is looked at on held-out prompts, and data.holdout is 0",
            instead=f"Set data.holdout, or {where}.every=null.",
        )
    if stop.true_reward_drop is not None and not true_reward:
        yield Fault(
            where=f"{where}.true_reward_drop",
            what="the true metric is the optimized reward itself, and cannot fall while that does not",
            instead="Give another one (rlhf.true_reward=…), or leave it out.",
        )
    if patience is not None:
        yield Fault(
            where="schedule.patience",
            what="it waits for a held-out loss, and a policy that learns from rewards has none",
            instead=f"Leave it out; {where}.every and {where}.keep=best keep the best weights by the true metric.",
        )
