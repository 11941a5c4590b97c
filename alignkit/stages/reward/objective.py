"""From the rewards of a batch to its losses, by what the stage learns from; and the figures of a step.

Letters: A answers, B rows; the answers of pairs stand chosen, rejected, chosen, rejected …
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignkit.stages.reward.losses import bradley_terry, cross_entropy, squared_error
from alignkit.stages.reward.recipe import RewardOptions


@dataclass(frozen=True)
class Objective:
    """What is minimised. ``mean`` and ``deviation``: what learned scores are taken less, and over."""

    options: RewardOptions
    mean: float = 0.0
    deviation: float = 1.0

    def losses(self, rewards: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """(B,) the loss of each row from rewards (A,)."""
        options = self.options
        if options.learn == "pairs":
            margin = options.margin * batch["margins"].to(rewards) if options.margin else None
            return bradley_terry(rewards[0::2], rewards[1::2], margin, center=options.center)
        if options.learn == "scores":
            return squared_error(rewards, self.targets(batch["scores"].to(rewards)))
        return cross_entropy(rewards, batch["desirable"].to(rewards.device))

    def targets(self, scores: Tensor) -> Tensor:
        """The rewards that scores stand for."""
        return (scores - self.mean) / self.deviation

    def figures(self, rewards: Sequence[Tensor], batches: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """What metrics.jsonl says of a step: of pairs how often the better answer has the higher reward (a tie counts
        half) and by how much, and where the rewards lie."""
        together = torch.cat(list(rewards)).double().cpu()  # (A,)
        found = {"reward/mean": float(together.mean()), "reward/deviation": float(together.std(unbiased=False))}
        if self.options.learn == "pairs":
            difference = together[0::2] - together[1::2]
            right = (difference > 0).double() + (difference == 0).double() / 2
            return {"reward/accuracy": float(right.mean()), "reward/margin": float(difference.mean()), **found}
        if self.options.learn == "labels":
            wanted = torch.cat([batch["desirable"] for batch in batches]).cpu()
            right = ((together > 0) == wanted).double()
            return {"reward/accuracy": float(right.mean()), **found}
        return found
