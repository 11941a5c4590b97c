"""From rewards of answers to what is learned of a rollout: its advantages, returns, and which answers take part.

Letters: A answers, N tokens of all answers, answer by answer; S samples of a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from alignkit.rollouts.rollout import Rollout
from alignkit.stages.rlhf.arithmetic import advantages, groups, rewards
from alignkit.stages.rlhf.arithmetic.controller import KlController
from alignkit.stages.rlhf.arithmetic.kl import estimate
from alignkit.stages.rlhf.arithmetic.moments import RunningMoments
from alignkit.stages.rlhf.arithmetic.ragged import spread, sums
from alignkit.stages.rlhf.recipe import RlhfOptions
from alignkit.stages.rlhf.recipe_algorithms import Settled


@dataclass
class Crediting:
    """What an algorithm makes of rewards. It remembers from rollout to rollout: see ``state_dict``."""

    options: RlhfOptions
    settled: Settled
    moments: RunningMoments = field(default_factory=RunningMoments)
    """Of all rewards so far, where `reward_scale` is running."""
    coefficient: float = field(default=0.0, init=False)
    """Of the KL in the rollout that was credited last: in its rewards, and in the losses of all passes over it."""

    def __post_init__(self) -> None:
        kl, settled = self.options.kl, self.settled
        coefficient = settled.kl_coefficient if settled.kl_where != "off" else 0.0
        target = kl.target if kl.control == "adaptive" else None
        self.controller = KlController(coefficient, target=target, horizon=kl.horizon)
        self.coefficient = coefficient

    def credit(self, rollout: Rollout) -> Tensor:
        """Fill in ``rollout.advantages`` (and ``returns`` for ppo); (A,) bool: the answers that take part.

        The KL coefficient of this rollout is the one that those before it have led to; afterwards the controller's has
        moved (Ziegler et al. 2019).
        """
        scores = self._scores(rollout)  # (A,), NaN: not known
        counted = self._counted(rollout, scores)
        known = scores.nan_to_num(nan=0.0)
        settled, lengths = self.settled, rollout.tokens
        kl, coefficient = self._penalty(rollout), self.controller.coefficient
        self.coefficient = coefficient
        if settled.algorithm == "ppo":
            assert rollout.values is not None
            found = advantages.actor_critic(
                rewards.token_rewards(known, lengths, kl, coefficient),
                rollout.values,
                lengths,
                gamma=self.options.gamma,
                lam=self.options.gae_lambda,
                whiten_rewards=self.options.whiten_rewards,
                whiten_advantages=settled.whiten_advantages,
                counted=counted,
            )
            rollout.advantages, rollout.returns = found.advantages, found.returns
        elif settled.algorithm == "reinforce++":
            if settled.advantage == "group-batch":
                known = groups.relative(scores, self.options.samples, scale="none")
            rollout.advantages = advantages.reinforce_plus_plus(
                rewards.token_rewards(known, lengths, kl, coefficient),
                lengths,
                gamma=self.options.gamma,
                whiten_advantages=settled.whiten_advantages,
                counted=counted,
            )
        else:
            paid = rewards.answer_rewards(scores, lengths, kl, coefficient)
            rollout.advantages = spread(self._relative(paid, counted), lengths)
        self._steer(rollout)
        return counted

    def level(self, rollout: Rollout) -> Tensor:
        """(A / S,) bool: prompts all of whose answers are worth the same, penalties and clipping included, KL not."""
        return groups.level(self._shaped(rollout), self.options.samples)

    def _scores(self, rollout: Rollout) -> Tensor:
        """(A,) what answers are worth, in the light of all rewards so far."""
        if self.options.reward_scale == "running":
            self.moments.update(_given(rollout))
        return self._shaped(rollout)

    def _shaped(self, rollout: Rollout) -> Tensor:
        """(A,) rewards: scaled, clipped, less what is taken off for not ending."""
        options, scores = self.options, _given(rollout)
        if options.reward_scale == "running":
            scores = rewards.scaled(scores, self.moments)
        elif options.reward_scale == "batch":
            scores = rewards.scaled(scores, RunningMoments.of(scores))
        if options.reward_clip is not None:
            scores = rewards.clipped(scores, options.reward_clip)
        if options.missing_eos_penalty:
            scores = rewards.without_end(scores, _finished(rollout), options.missing_eos_penalty)
        if options.overlong_buffer is not None:
            taken = rewards.overlong(rollout.tokens, longest=options.max_new_tokens, cache=options.overlong_buffer)
            scores = scores + taken
        return scores.float()

    def _counted(self, rollout: Rollout, scores: Tensor) -> Tensor:
        """(A,) bool: answers with a reward, but for those that the options leave out. ``scores``: of `_scores`."""
        counted = ~scores.isnan()
        if self.options.mask_truncated:
            counted &= _finished(rollout)
        if self.options.zero_variance != "keep":
            samples = self.options.samples
            counted &= ~groups.level(scores, samples).repeat_interleave(samples)
        return counted

    def _penalty(self, rollout: Rollout) -> Tensor | None:
        """(N,) the KL that is taken off the rewards, nats a token; None: none is."""
        if self.settled.kl_where != "reward":
            return None
        assert rollout.policy is not None and rollout.reference is not None
        return estimate(rollout.policy, rollout.reference, self.settled.kl_estimator)

    def _relative(self, paid: Tensor, counted: Tensor) -> Tensor:
        """(A,) what an answer is worth beside the others to its prompt."""
        samples = self.options.samples
        if self.settled.algorithm == "online-dpo":  # sorted by it into better and worse; nothing else reads it
            return groups.relative(paid, samples, scale="none")
        if self.settled.algorithm == "grpo":
            scale = {"group-std": "group", "group-batch": "batch", "group": "none"}[self.settled.advantage]
            return groups.relative(paid, samples, scale=scale)  # type: ignore[arg-type]
        found = groups.rloo(paid, samples)
        return advantages.whiten(found, counted=counted) if self.settled.whiten_advantages else found

    def _steer(self, rollout: Rollout) -> None:
        if self.controller.target is not None:
            assert rollout.policy is not None and rollout.reference is not None
            kl = sums((rollout.policy - rollout.reference).double(), rollout.tokens)  # (A,)
            self.controller.update(float(kl.mean()), len(rollout.answers))

    def state_dict(self) -> dict[str, Any]:
        """All that is remembered: plain JSON values, which keep doubles exactly."""
        kl = {"controller": self.controller.state_dict(), "coefficient": self.coefficient}
        return {"moments": self.moments.state_dict(), "kl": kl}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.moments.load_state_dict(state["moments"])
        self.controller.load_state_dict(state["kl"]["controller"])
        self.coefficient = state["kl"]["coefficient"]


def _given(rollout: Rollout) -> Tensor:
    """(A,) float64: what the rewards said."""
    return torch.tensor([answer.reward for answer in rollout.answers], dtype=torch.float64)


def _finished(rollout: Rollout) -> Tensor:
    """(A,) bool"""
    return torch.tensor([answer.finished for answer in rollout.answers])
