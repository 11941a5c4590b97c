"""Options of the rank stage: which prompts, how many answers to each, what judges them, and which pairs they become."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from alignkit.config.recipe import StageRecipe
from alignkit.config.sections import OPERATIONAL, Data, Model, Quantization
from alignkit.errors import Fault
from alignkit.rewards.recipe import RewardSource, files_of


@dataclass(kw_only=True)
class RankOptions:
    """What is peculiar to ranking a model's own answers."""

    reward: list[RewardSource]
    """What judges the answers: a name, a path of a reward model, MODULE:FUNCTION (with --allow-code), or a list of
    mappings {name: …, weight: …, …} that are added up."""
    samples: Annotated[int, Ge(2)] = 4
    """Answers drawn to each prompt."""
    pairs: Literal["best-worst", "best-rest", "all"] = "best-worst"
    """Which answers become pairs: the best against the worst, the best against each other one, or every two."""
    margin: Annotated[float, Ge(0)] = 0.0
    """Least difference of the rewards of a pair; ties are never pairs."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """Divides the logits: below 1 answers are more alike, above 1 they differ more."""
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """Draw from the smallest set of tokens whose probability reaches this; 1: from all."""
    max_new_tokens: Annotated[int, Ge(1)] = 256
    """Longest answer in tokens."""
    unfinished: Literal["drop", "keep"] = "drop"
    """Answers that the limit cut off: kept out of the pairs, since who learns from them learns to stop there; or kept
    like the others."""
    on_error: Literal["stop", "skip"] = "stop"
    """What an answer that a reward gives no finite number for does: stop the run, or be left out and counted."""
    batch: Annotated[int, Ge(1)] = field(default=32, metadata=OPERATIONAL)
    """Answers written at once."""
    reward_batch: Annotated[int, Ge(1)] = field(default=16, metadata=OPERATIONAL)
    """Answers that a reward model or a judge reads at once."""


@dataclass(kw_only=True)
class Recipe(StageRecipe):
    """A model's own answers, judged, as preference pairs for the next stage."""

    semantics: ClassVar[int] = 1
    wants: ClassVar[Literal["demonstration", "preference", "feedback", "scored", "ranking", "prompt", "labelled"]] = (
        "prompt"
    )

    model: Model
    data: Data
    quantization: Quantization = field(default_factory=Quantization)
    rank: RankOptions

    def files_read(self) -> dict[str, list[Path]]:
        return files_of(self.rank.reward, "rank.reward")

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        if not any(one.weight for one in self.rank.reward):
            yield Fault(
                where="rank.reward", what="no reward has a weight other than 0, so all answers are worth the same"
            )
