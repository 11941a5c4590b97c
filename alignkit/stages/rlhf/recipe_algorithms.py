"""What each algorithm takes where a recipe says null, and which options it reads: one visible table, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alignkit.stages.rlhf.recipe import Advantage, Algorithm, GrpoLoss, OnlineDpoLoss, RlhfOptions


@dataclass(frozen=True, kw_only=True)
class Settled:
    """The options that may be null, with their values. ``kl_coefficient`` is that of the start."""

    algorithm: Algorithm
    epochs: int
    kl_where: Literal["reward", "loss", "off"]
    kl_estimator: Literal["k1", "k2", "k3"]
    kl_coefficient: float
    clip_low: float
    clip_high: float
    whiten_advantages: bool
    loss: GrpoLoss
    importance: Literal["token", "sequence"]
    advantage: Advantage
    beta: float
    dpo_loss: OnlineDpoLoss
    longest: int
    """Tokens of the longest answer: what Dr. GRPO's loss is divided by."""

    @property
    def has_values(self) -> bool:
        """Whether a value function is learned."""
        return self.algorithm == "ppo"

    @property
    def reads_reference(self) -> bool:
        """Whether the log-probabilities of the reference decide what is learned."""
        return self.kl_where != "off" or self.algorithm == "online-dpo"

    @property
    def hold(self) -> str:
        """What keeps the policy nearer to its reference, as a sentence begins."""
        first = "Raise rlhf.beta" if self.algorithm == "online-dpo" else "Raise rlhf.kl.coefficient"
        if self.algorithm != "online-dpo" and self.kl_where == "off":
            first = f"Write rlhf.kl.where={TABLE[self.algorithm].kl_where}"
        return f"{first}, or lower optimizer.learning_rate"

    @property
    def clips(self) -> frozenset[str]:
        """On which sides of 1 the loss clips ratios: low, high."""
        unread = UNREAD_BY_LOSS.get(self.loss, frozenset())
        return frozenset(side for side, name in (("low", "clip"), ("high", "clip_high")) if name not in unread)


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Of one algorithm, with the options that it reads beside those that all do."""

    epochs: int
    kl_where: Literal["reward", "loss", "off"]
    kl_coefficient: float
    whiten_advantages: bool
    advantage: Advantage
    reads: frozenset[str]


TABLE: dict[Algorithm, Defaults] = {
    # Huang et al. 2024, "The N+ implementation details of RLHF with PPO": 4 epochs, KL 0.05 in the reward.
    "ppo": Defaults(
        epochs=4,
        kl_where="reward",
        kl_coefficient=0.05,
        whiten_advantages=True,
        advantage="batch",
        reads=frozenset(
            {"kl", "gamma", "gae_lambda", "clip", "value", "whiten_rewards", "whiten_advantages", "entropy"}
        ),
    ),
    # Ahmadian et al. 2024, "Back to Basics": each answer is one action, its KL is part of its reward; 0.05 is TRL's.
    "rloo": Defaults(
        epochs=1,
        kl_where="reward",
        kl_coefficient=0.05,
        whiten_advantages=False,
        advantage="group",
        reads=frozenset({"kl", "clip", "whiten_advantages", "groups"}),
    ),
    # Shao et al. 2024, "DeepSeekMath", section 4.2: KL 0.04 in the loss, one update for each exploration.
    "grpo": Defaults(
        epochs=1,
        kl_where="loss",
        kl_coefficient=0.04,
        whiten_advantages=False,
        advantage="group-std",
        reads=frozenset({"kl", "clip", "loss", "importance", "advantage", "groups", "entropy"}),
    ),
    # Hu 2025, "REINFORCE++": the tokens' KL in the reward, returns normalised over the batch; 0.01 is the code's.
    "reinforce++": Defaults(
        epochs=1,
        kl_where="reward",
        kl_coefficient=0.01,
        whiten_advantages=True,
        advantage="batch",
        reads=frozenset({"kl", "gamma", "clip", "whiten_advantages", "advantage", "entropy"}),
    ),
    # Guo et al. 2024, "Direct language model alignment from online AI feedback": beta 0.1 of the pair loss.
    "online-dpo": Defaults(
        epochs=1,
        kl_where="off",
        kl_coefficient=0.0,
        whiten_advantages=False,
        advantage="group",
        reads=frozenset({"beta", "dpo_loss", "groups"}),
    ),
}


UNREAD_BY_LOSS: dict[GrpoLoss, frozenset[str]] = {
    # The weight of a log-probability is cut above only (MiniMax-M1, 2025; ScaleRL: Khatri et al. 2025).
    "cispo": frozenset({"clip"}),
    # Soft gates in the place of clipping; vespo's is that of the whole answer.
    "sapo": frozenset({"clip", "clip_high"}),
    "vespo": frozenset({"clip", "clip_high", "importance"}),
}
"""Options that some of grpo's losses do not read."""
CISPO_HIGH = 4.0
"""ScaleRL's ratios count up to 5."""


def settle(options: RlhfOptions) -> Settled:
    """Every null replaced by what the algorithm's paper takes."""
    own, kl = TABLE[options.algorithm], options.kl
    where = kl.where or own.kl_where
    in_loss: Literal["k2", "k3"] = "k3" if options.algorithm == "grpo" else "k2"
    whiten = options.whiten_advantages
    high = CISPO_HIGH if options.loss == "cispo" else options.clip
    return Settled(
        algorithm=options.algorithm,
        epochs=options.epochs or own.epochs,
        kl_where=where,
        kl_estimator=kl.estimator or (in_loss if where == "loss" else "k1"),
        kl_coefficient=own.kl_coefficient if kl.coefficient is None else kl.coefficient,
        clip_low=options.clip,
        clip_high=high if options.clip_high is None else options.clip_high,
        whiten_advantages=own.whiten_advantages if whiten is None else whiten,
        loss=options.loss or "grpo",
        importance=options.importance or "token",
        advantage=options.advantage or own.advantage,
        beta=0.1 if options.beta is None else options.beta,
        dpo_loss=options.dpo_loss or "sigmoid",
        longest=options.max_new_tokens,
    )
