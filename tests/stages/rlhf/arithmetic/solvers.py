"""Each algorithm as a loop of a few lines over a bandit, with the arithmetic that the stage runs on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from alignkit.stages.dpo.recipe import DpoOptions
from alignkit.stages.rlhf.arithmetic import ragged
from alignkit.stages.rlhf.arithmetic.advantages import actor_critic, reinforce_plus_plus
from alignkit.stages.rlhf.arithmetic.groups import best_and_worst, relative
from alignkit.stages.rlhf.arithmetic.groups import rloo as rloo_advantages
from alignkit.stages.rlhf.arithmetic.kl import Estimator, estimate
from alignkit.stages.rlhf.arithmetic.rewards import answer_rewards, token_rewards
from alignkit.stages.rlhf.losses import Scored, Terms, online_dpo, ppo
from alignkit.stages.rlhf.losses import reinforce_plus_plus as reinforce_loss
from tests.stages.rlhf.arithmetic import trl_losses
from tests.stages.rlhf.arithmetic.bandit import Bandit, Drawn

Where = Literal["reward", "loss"]
Step = Callable[[Drawn, Tensor, Tensor], Tensor]
"""(what was drawn, its log-probabilities now (N,) with gradient, those at the rollout) -> loss."""


def solve(
    bandit: Bandit, prepare: Callable[[Drawn, Tensor, Tensor], Step], *, steps: int, answers: int = 64, epochs: int = 2,
    rate: float = 0.05, extra: list[Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """The table of logits after ``steps`` rollouts, each gone over ``epochs`` times; the rate falls to 0."""
    logits = bandit.reference.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits, *(extra or [])], lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps * epochs)
    for _ in range(steps):
        drawn = bandit.draw(logits.detach(), answers)
        here = (drawn.states, drawn.tokens)
        old = logits.detach().log_softmax(-1)[here]
        step = prepare(drawn, old, bandit.reference[here])
        for _ in range(epochs):
            optimizer.zero_grad()
            step(drawn, logits.log_softmax(-1)[here], old).backward()
            optimizer.step()
            schedule.step()
    return logits.detach()


def terms(where: Where, estimator: Estimator, beta: float, **more: Any) -> Terms:
    return Terms(kl=estimator if where == "loss" else None, kl_coefficient=beta, **more)


def paid(bandit: Bandit, drawn: Drawn, kl: Tensor, beta: float, where: Where) -> Tensor:
    scores = bandit.rewards[drawn.answers]
    return token_rewards(scores, drawn.lengths, kl if where == "reward" else None, beta)


def by_ppo(bandit: Bandit, beta: float, where: Where = "reward", estimator: Estimator = "k1", **more: Any) -> Tensor:
    values = torch.zeros(len(bandit.reference), requires_grad=True)
    asked = terms(where, estimator, beta, value_coefficient=1.0, value_clip=0.5)

    def prepare(drawn: Drawn, old: Tensor, reference: Tensor) -> Step:
        rewards = paid(bandit, drawn, estimate(old, reference, estimator), beta, where)
        before = values.detach()[drawn.states]
        # A KL in the loss is weighed against advantages in units of reward: they are not whitened then.
        found = actor_critic(rewards, before, drawn.lengths, gamma=1.0, lam=0.95, whiten_advantages=where == "reward")

        def step(drawn: Drawn, new: Tensor, old: Tensor) -> Tensor:
            scored = Scored(
                new=new, old=old, advantages=found.advantages, reference=reference,
                values=values[drawn.states], old_values=before, returns=found.returns,
            )  # fmt: skip
            return ppo(scored, asked, len(new))[0]

        return step

    return solve(bandit, prepare, extra=[values], **more)


def by_reinforce_plus_plus(
    bandit: Bandit, beta: float, where: Where = "reward", estimator: Estimator = "k1", **more: Any
) -> Tensor:
    asked = terms(where, estimator, beta)

    def prepare(drawn: Drawn, old: Tensor, reference: Tensor) -> Step:
        rewards = paid(bandit, drawn, estimate(old, reference, estimator), beta, where)
        if where == "loss":  # the variant with a baseline; all answers are of one prompt here
            scores = relative(bandit.rewards[drawn.answers], len(drawn.answers), scale="none")
            rewards = token_rewards(scores, drawn.lengths)
        advantages = reinforce_plus_plus(rewards, drawn.lengths, whiten_advantages=where == "reward")

        def step(drawn: Drawn, new: Tensor, old: Tensor) -> Tensor:
            scored = Scored(new=new, old=old, advantages=advantages, reference=reference)
            return reinforce_loss(scored, asked, len(new))[0]

        return step

    return solve(bandit, prepare, **more)


def by_rloo(bandit: Bandit, beta: float, *, samples: int = 4, **more: Any) -> Tensor:
    """The advantages are ours, the loss is TRL's."""

    def prepare(drawn: Drawn, old: Tensor, reference: Tensor) -> Step:
        kl = estimate(old, reference, "k1")
        scores = answer_rewards(bandit.rewards[drawn.answers], drawn.lengths, kl, beta)
        advantages = rloo_advantages(scores, samples)
        return lambda drawn, new, old: trl_losses.rloo(new, old, advantages, drawn.lengths)

    return solve(bandit, prepare, **more)


def by_grpo(
    bandit: Bandit, *, samples: int = 8, scale: Literal["group", "batch", "none"] = "group", steps: int, **trl: Any
) -> Tensor:
    """GRPO and its kin without a KL: the advantages are ours, the losses TRL's."""

    def prepare(drawn: Drawn, old: Tensor, reference: Tensor) -> Step:
        advantages = relative(bandit.rewards[drawn.answers], samples, scale=scale)
        return lambda drawn, new, old: trl_losses.grpo(new, old, advantages, drawn.lengths, reference=reference, **trl)[
            0
        ]

    return solve(bandit, prepare, steps=steps)


def by_online_dpo(bandit: Bandit, beta: float, **more: Any) -> Tensor:
    """A judge who prefers a to b with probability σ(r_a - r_b): rewards with Gumbel noise compare like that."""
    options = DpoOptions(loss="sigmoid", beta=beta)

    def prepare(drawn: Drawn, old: Tensor, reference: Tensor) -> Step:
        noise = -torch.rand(len(drawn.answers), generator=bandit.generator).log()
        pairs = best_and_worst(bandit.rewards[drawn.answers] - noise.log(), 2)
        chosen = bandit.positions(drawn.answers[pairs.view(-1)])
        places = ragged.padded(torch.arange(len(old)).double(), drawn.lengths)[pairs.view(-1)]
        at = ragged.flat(places, chosen.lengths).long()

        def step(drawn: Drawn, new: Tensor, old: Tensor) -> Tensor:
            return online_dpo(new[at], reference[at], chosen.lengths, options, {}, pairs=len(pairs))[0]

        return step

    return solve(bandit, prepare, **more)
