"""Options of the reward stage: what a score is learned from, and what is looked at afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt

from alignkit.config.recipe import GradientRecipe, Kind
from alignkit.config.sections import OPERATIONAL, Data, Evaluation
from alignkit.errors import Fault

KINDS: dict[str, Kind] = {"pairs": "preference", "scores": "scored", "labels": "feedback"}
"""What is learned from to the kind of rows that holds it."""


@dataclass(kw_only=True)
class RewardOptions:
    """What is peculiar to learning what an answer is worth."""

    learn: Literal["pairs", "scores", "labels"] = "pairs"
    """pairs: the chosen answer above the rejected one (Bradley and Terry 1952, as Ouyang et al. 2022 have it); scores:
    the number that a row gives its answer, by least squares; labels: whether an answer was wanted, by cross entropy."""
    margin: Annotated[float, Ge(0)] = 0.0
    """pairs: the chosen reward is to be higher by this times the difference of the pair's own scores (Touvron et al.
    2023, section 3.2.2). 0: merely higher; above 0 every row needs its scores."""
    center: Annotated[float, Ge(0)] = 0.01
    """pairs: weight of the squared sum of both rewards, which keeps their mean at 0 (Eisenstein et al. 2023, section
    2.1, who take 0.01): pairs alone leave it open. 0: off."""
    standardize: bool = True
    """scores: learn them less their mean, over their deviation, as found in the training rows, so that rewards have
    the size that policy gradients expect; both figures are in the manifest. false: learn the numbers as they are."""
    truncation: Literal["prompt", "answer"] = "prompt"
    """Of rows over data.max_length with data.overlength=truncate: prompt leaves out its earliest turns, answer cuts the
    end of the answers. The share of answers cut is always reported."""
    odd_scores: Literal["keep", "drop", "stop"] = "keep"
    """Pairs whose own scores are level, or put the rejected answer first: kept, left out, or an error. Always
    counted."""


@dataclass(kw_only=True)
class RewardEvaluation(Evaluation):
    """The same held-out rows before and after training: does it tell good answers from bad ones, and by what?"""

    best_of: Data | None = None
    """Prompts with several answers and their true scores (ranked answers, as in `answers` and `scores`): how much
    better the answer is that the reward model picks of n. Short form: evaluation.best_of=samples.jsonl"""
    best_of_rows: Annotated[int, Gt(0)] = 200
    """Prompts of best_of to look at, at most."""

    def decides(self) -> dict[str, Any]:
        best_of = asdict(self.best_of) if self.best_of is not None else None
        return {"rows": self.rows, "samples": self.samples, "best_of": best_of, "best_of_rows": self.best_of_rows}


@dataclass(kw_only=True)
class Recipe(GradientRecipe):
    """A reward model: one score for an answer to a prompt, learned from pairs, scores or labels."""

    semantics: ClassVar[int] = 1
    trl_config: ClassVar[str | None] = "RewardConfig"
    trl_owned: ClassVar[dict[str, str]] = {"center_rewards_coefficient": "reward.center"}

    reward: RewardOptions = field(default_factory=RewardOptions)
    evaluation: RewardEvaluation = field(default_factory=RewardEvaluation, metadata=OPERATIONAL)

    @property
    def wants(self) -> Kind:
        return KINDS[self.reward.learn]

    def wants_at(self, where: str) -> Kind:
        return "ranking" if where == "evaluation.best_of" else self.wants

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        options = self.reward
        if options.learn != "pairs":
            if options.margin:
                yield Fault(
                    where="reward.margin",
                    what=f"a margin lies between the answers of a pair, and reward.learn is {options.learn}",
                    instead="Leave it out, or write reward.learn=pairs.",
                )
            if options.odd_scores != "keep":
                yield Fault(
                    where="reward.odd_scores",
                    what=f"it is about pairs with scores, and reward.learn is {options.learn}",
                    instead="Leave it out, or write reward.learn=pairs.",
                )
        if self.data.packing == "best-fit":
            yield Fault(
                where="data.packing",
                what="best-fit makes blocks of rows, and a reward counts answers",
                instead="Write data.packing=true, or data.packing=false to pad.",
            )
        if self.data.overlength == "split":
            yield Fault(
                where="data.overlength",
                what="split cuts raw text, and an answer in pieces cannot be judged",
                instead="Write data.overlength=drop, or data.overlength=truncate with reward.truncation.",
            )
        if self.data.train_on == "all":
            yield Fault(
                where="data.train_on",
                what="a reward is read once, at the end of an answer, and train_on=all asks for every token",
                instead="Leave it out.",
            )
