"""What `alignkit eval` can be told about a reward. No torch: it is composed before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from alignkit.errors import Fault
from alignkit.evaluation.recipe import EvalRecipe
from alignkit.rewards.recipe import RewardSource


@dataclass(kw_only=True)
class RewardEvalRecipe(EvalRecipe):
    """Which model to score on which rows; with a reward, what this says of answers in place of losses."""

    reward: RewardSource | None = None
    """Judges answers: a reward model (./DIR, a run, hub:NAME) or another reward. Short form: reward=./DIR"""
    answers: Literal["data", "own", "both"] = "both"
    """With a reward: the answers that the data holds, those that the model gives to its prompts, or both. data: the
    model's weights are not read."""

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        if self.reward is None and self.answers != "both":
            yield Fault(
                where="answers",
                what="it says whose answers a reward is to judge, and there is no reward",
                instead="Add reward=./DIR, or leave it out.",
            )
        if self.reward is not None and self.reference is not None:
            yield Fault(
                where="reference",
                what="it is what log-probabilities are compared against, and a reward looks at none",
                instead="Leave it out, or leave the reward out.",
            )
