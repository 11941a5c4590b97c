"""The algorithms that are our own: PPO, REINFORCE++ and online DPO, on transformers' Trainer.

Letters: A answers of a part, N tokens of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from alignkit.stages.dpo.recipe import DpoOptions
from alignkit.stages.rlhf import losses
from alignkit.stages.rlhf.arithmetic.groups import best_and_worst
from alignkit.stages.rlhf.arithmetic.ragged import last
from alignkit.stages.rlhf.arithmetic.value import value_clipped, value_loss
from alignkit.stages.rlhf.losses import Scored, Terms
from alignkit.stages.rlhf.trainer import MiniBatch, RolloutTrainer


class SurrogateTrainer(RolloutTrainer, Trainer):  # type: ignore[misc]
    """PPO and REINFORCE++: the clipped surrogate, with a value function or without."""

    def part_loss(self, model: Any, inputs: dict[str, Any], mini: MiniBatch) -> Tensor:
        about, known, terms = inputs["about"], inputs["known"], self.terms()
        found = self.scores(model, inputs)
        if about == "values":
            assert found.values is not None
            return self._value_loss(found.values, known, terms, mini)
        assert found.log_probs is not None and found.entropy is not None
        scored = Scored(
            new=found.log_probs,
            old=known.get("old", found.log_probs.detach()),
            advantages=known["advantages"],
            reference=known.get("reference"),
            entropy=found.entropy if terms.entropy_coefficient else found.entropy.detach(),
            values=found.values,
            old_values=known.get("values"),
            returns=known.get("returns"),
        )
        one = losses.ppo if found.values is not None else losses.reinforce_plus_plus
        loss, figures = one(scored, terms, mini.tokens)
        mini.add(figures)
        return self.with_router(loss, found.router, len(found.tokens), mini)

    def _value_loss(self, values: Tensor, known: dict[str, Tensor], terms: Terms, mini: MiniBatch) -> Tensor:
        """The share of a value function that stands apart, weighed as in `losses.ppo`."""
        old, returns = known["values"], known["returns"]
        loss = value_loss(values, returns, old, terms.value_clip).sum() / max(1, mini.tokens)
        mini.add({"value_loss": loss.detach()})
        if terms.value_clip is not None:
            clipped = value_clipped(values.detach(), returns, old, terms.value_clip)
            mini.add({"value_clip": clipped.float().sum() / max(1, mini.tokens)})
        return terms.value_coefficient * loss

    def terms(self) -> Terms:
        """What the loss is made of at this step; the KL coefficient is the rollout's."""
        options, settled = self.setting.options, self.setting.settled
        in_loss = settled.kl_where == "loss"
        return Terms(
            clip=settled.clip_low,
            clip_high=settled.clip_high,
            kl=settled.kl_estimator if in_loss else None,
            kl_coefficient=self.setting.maker.crediting.coefficient if in_loss else 0.0,
            entropy_coefficient=options.entropy_coefficient,
            value_coefficient=options.value.coefficient,
            value_clip=options.value.clip,
        )


class OnlineDpoTrainer(RolloutTrainer, Trainer):  # type: ignore[misc]
    """Online DPO (Guo et al. 2024): of each prompt's answers the best and the worst are a pair for a loss of the dpo
    stage. A mini-batch holds whole prompts; one whose answers are all worth the same gives no pair."""

    reads_ahead = False

    def parts(self, mini: MiniBatch) -> list[list[int]]:
        """Places of chosen, rejected, chosen …, whole pairs, `batch.micro` answers at once."""
        pairs = self._pairs(mini)
        at_once = max(1, self.setting.micro // 2)
        return [[place for pair in pairs[at : at + at_once] for place in pair] for at in range(0, len(pairs), at_once)]

    def _pairs(self, mini: MiniBatch) -> list[list[int]]:
        """[best, worst] of each prompt that tells them apart, those of similar length together."""
        rollout = mini.rollout
        assert rollout.advantages is not None
        worth = rollout.advantages[last(rollout.tokens)]  # (A,): an answer's tokens share its worth
        known = torch.full_like(worth, torch.nan)
        known[mini.numbers] = worth[mini.numbers]
        pairs: list[list[int]] = best_and_worst(known, self.setting.options.samples).tolist()
        tokens = rollout.tokens.tolist()
        return sorted(pairs, key=lambda pair: -max(tokens[place] for place in pair))

    def part_loss(self, model: Any, inputs: dict[str, Any], mini: MiniBatch) -> Tensor:
        settled = self.setting.settled
        found = self.scores(model, inputs)
        assert found.log_probs is not None and found.entropy is not None
        pairs = len(self._pairs(mini))
        loss, figures = losses.online_dpo(
            found.log_probs,
            inputs["known"]["reference"],
            found.tokens,
            DpoOptions(loss=settled.dpo_loss, beta=settled.beta),
            {},
            pairs=pairs,
        )
        mini.add(figures)
        return self.with_router(loss, found.router, len(found.tokens), mini, of=2 * pairs)
