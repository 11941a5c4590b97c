"""Options of the rlhf stage: which algorithm, what is optimized, how answers are drawn, and what holds the policy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from alignkit.config.launching import ONE
from alignkit.config.recipe import GradientRecipe, Kind
from alignkit.config.sections import OPERATIONAL
from alignkit.errors import Fault
from alignkit.rewards.recipe import RewardSource, files_of
from alignkit.stages.rlhf.recipe_watch import PolicyEvaluation, StopOptions

Algorithm = Literal["ppo", "rloo", "grpo", "reinforce++", "online-dpo"]
GrpoLoss = Literal["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"]
"""Losses of TRL's GRPOTrainer."""
OnlineDpoLoss = Literal[
    "sigmoid", "robust", "hinge", "ipo", "exo_pair", "nca_pair", "sppo_hard", "apo_zero", "apo_down"
]
"""Losses of the dpo stage that one pair has by itself."""
Advantage = Literal["group-std", "group", "group-batch", "batch"]


@dataclass(kw_only=True)
class Kl:
    """What holds the policy to the model that training starts from. A null is the algorithm's own."""

    where: Literal["reward", "loss", "off"] | None = None
    """In the reward (each token's, or with rloo and grpo the answer's), in the loss, or nowhere; null: reward for ppo,
    rloo and reinforce++, loss for grpo, off for online-dpo, whose beta holds it."""
    estimator: Literal["k1", "k2", "k3"] | None = None
    """Of a token's KL, from d = log π/π_ref in nats (Schulman 2020): k1 d, k2 d²/2, k3 exp(-d) - 1 + d; null: k1 in
    a reward, k3 in grpo's loss, k2 in other losses."""
    coefficient: Annotated[float, Ge(0)] | None = None
    """Reward (or loss) per nat; null: 0.05 for ppo and rloo, 0.04 for grpo, 0.01 for reinforce++."""
    control: Literal["fixed", "adaptive"] = "fixed"
    """adaptive: the coefficient follows the KL to `target` (Ziegler et al. 2019, section 2.2)."""
    target: Annotated[float, Gt(0)] = 6.0
    """adaptive: KL of an answer in nats that is aimed at; 6 is what TRL's PPO had."""
    horizon: Annotated[int, Ge(1)] = 10000
    """adaptive: answers over which the coefficient goes up or down by about a fifth (a factor of e^0.2), while the KL
    is 20% off or more; 10000 is what TRL's PPO had."""


@dataclass(kw_only=True)
class Value:
    """The value function of ppo."""

    kind: Literal["trunk", "adapter"] = "trunk"
    """trunk: a linear head on the policy's own last hidden states; adapter: a head on a low-rank adapter of its own, on
    the same frozen base, so that it takes nothing from the policy's."""
    coefficient: Annotated[float, Gt(0)] = 0.1
    """Weight of the value loss beside the policy's (Huang et al. 2024)."""
    clip: Annotated[float, Gt(0)] | None = 0.2
    """Values move at most this far from those of the rollout, in units of reward; null: not clipped."""
    learning_rate: Annotated[float, Gt(0)] | None = None
    """Of the head, and of its adapter; null: optimizer.learning_rate."""
    detach: bool = False
    """trunk: the value loss teaches the head alone and leaves the trunk to the policy."""


@dataclass(kw_only=True)
class RlhfOptions:
    """What is peculiar to learning from rewards. A null takes the value of the algorithm's paper."""

    algorithm: Algorithm = "ppo"
    """ppo (Schulman et al. 2017), rloo (Ahmadian et al. 2024), grpo (Shao et al. 2024), reinforce++ (Hu 2025) or
    online-dpo (Guo et al. 2024). `rlhf.algorithm=ppo,rloo,grpo --sweep` compares them."""
    rewards: list[RewardSource]
    """What is optimized: a name, a path of a reward model, MODULE:FUNCTION (with --allow-code), or a list of mappings
    {name: …, weight: …, …} that are added up."""
    true_reward: list[RewardSource] = field(default_factory=list)
    """What held-out answers are judged by and nothing learns from, so that a reward that is played can be told from one
    that is earned; []: the rewards themselves. The best weights are chosen by it, so it belongs to a run's key."""
    prompts: Annotated[int, Ge(1)] = 16
    """Prompts of a rollout."""
    samples: Annotated[int, Ge(1)] = 4
    """Answers drawn to each prompt; a rollout holds prompts times samples."""
    max_new_tokens: int = 128
    """Longest answer in tokens, 1 at least."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """Divides the logits, when answers are drawn and when they are scored."""
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """Draw from the smallest set of tokens whose probability reaches this; 1: from all. Below 1 the answers are not
    quite those of the policy that is scored."""
    epochs: Annotated[int, Ge(1)] | None = None
    """Passes over a rollout, in mini-batches of batch.size answers; null: 4 for ppo, else 1."""
    kl: Kl = field(default_factory=Kl)
    gamma: Annotated[float, Gt(0), Le(1)] = 1.0
    """ppo, reinforce++: what a token's reward is worth one token earlier."""
    gae_lambda: Annotated[float, Ge(0), Le(1)] = 0.95
    """ppo: between one-step advantages (0) and whole returns (1) (Schulman et al. 2016, equation 16)."""
    clip: Annotated[float, Gt(0)] = 0.2
    """How far a probability ratio may go from 1 and still be rewarded (not read by online-dpo, nor by grpo's losses
    sapo and vespo, which have soft bounds, and cispo, which has none below 1)."""
    clip_high: Annotated[float, Gt(0)] | None = None
    """The same above 1; null: as `clip`, with cispo 4. DAPO takes 0.28 beside 0.2. cispo: a token's ratio weighs at
    most 1 + clip_high (5 in ScaleRL, Khatri et al. 2025)."""
    value: Value = field(default_factory=Value)
    whiten_rewards: bool = False
    """ppo: the rewards of a rollout's tokens are brought to variance 1, their mean kept."""
    whiten_advantages: bool | None = None
    """ppo, rloo, reinforce++: the advantages of a rollout are brought to mean 0 and variance 1; null: for ppo and
    reinforce++, not for rloo."""
    reward_clip: Annotated[float, Gt(0)] | None = None
    """Rewards of answers are cut to ± this, after scaling; null: not cut."""
    reward_scale: Literal["none", "running", "batch"] = "none"
    """Rewards of answers are divided by their standard deviation: over the run so far, or over the rollout (Engstrom et
    al. 2020, section 2)."""
    missing_eos_penalty: Annotated[float, Ge(0)] = 0.0
    """Taken off the reward of an answer that the limit cut off (Huang et al. 2024: EOS trick)."""
    overlong_buffer: Annotated[int, Ge(1)] | None = None
    """DAPO: over the last so many tokens before the limit up to 1 is taken off, linearly (Yu et al. 2025, eq. 13)."""
    mask_truncated: bool = False
    """Answers that the limit cut off teach nothing (Yu et al. 2025, section 3.4)."""
    zero_variance: Literal["keep", "drop", "resample"] = "keep"
    """Prompts all of whose answers are worth the same, scaling, clipping and penalties included: kept, left out, or
    left out and replaced by further prompts (dynamic sampling, Yu et al. 2025, section 3.2)."""
    max_draws: Annotated[int, Ge(2)] = 4
    """resample: how often `prompts` are drawn for one rollout at most."""
    loss: GrpoLoss | None = None
    """grpo: what the loss is averaged over and how it clips, by TRL's names; null: grpo."""
    importance: Literal["token", "sequence"] | None = None
    """grpo: ratios of tokens, or one of each answer (GSPO, Zheng et al. 2025); null: token."""
    advantage: Advantage | None = None
    """grpo: an answer's reward less its group's mean, over the group's deviation (group-std), over the rollout's
    (group-batch), or as it is (group: Dr. GRPO); null: group-std. reinforce++: normalised over the rollout (batch), or
    less the group's mean first (group-batch: REINFORCE++-baseline); null: batch."""
    entropy_coefficient: Annotated[float, Ge(0)] = 0.0
    """Weight of the mean entropy of a token, in nats, that is added to the objective."""
    beta: Annotated[float, Gt(0)] | None = None
    """online-dpo: reward per nat of log-ratio; null: 0.1."""
    dpo_loss: OnlineDpoLoss | None = None
    """online-dpo: loss of the dpo stage between the best and the worst answer to a prompt; null: sigmoid."""
    on_error: Literal["stop", "skip"] = "stop"
    """What an answer that a reward gives no finite number for does: stop the run, or be left out and counted."""
    stop: StopOptions = field(default_factory=StopOptions)
    batch: Annotated[int, Ge(1)] = field(default=64, metadata=OPERATIONAL)
    """Answers written at once, and read at once for their log-probabilities."""
    reward_batch: Annotated[int, Ge(1)] = field(default=16, metadata=OPERATIONAL)
    """Answers that a reward model or a judge reads at once."""
    save_rollouts: Annotated[int, Ge(0)] = field(default=1, metadata=OPERATIONAL)
    """Keep the texts of every so many rollouts in rollouts.jsonl of the run; 0: of none."""


@dataclass(kw_only=True)
class Recipe(GradientRecipe):
    """RLHF: a policy learns from rewards of its own answers, by PPO, RLOO, GRPO and their kin."""

    engines: ClassVar[tuple[str, ...]] = ONE
    semantics: ClassVar[int] = 1
    trl_configs: ClassVar[dict[str, str]] = {"grpo": "GRPOConfig", "rloo": "RLOOConfig"}
    trl_owned: ClassVar[dict[str, str]] = {
        "num_generations": "rlhf.samples",
        "max_completion_length": "rlhf.max_new_tokens",
        "temperature": "rlhf.temperature",
        "top_p": "rlhf.top_p",
        "beta": "rlhf.kl.coefficient",
        "num_iterations": "rlhf.epochs",
        "generation_batch_size": "rlhf.prompts",
        "steps_per_generation": "rlhf.epochs",
        "epsilon": "rlhf.clip",
        "epsilon_high": "rlhf.clip_high",
        "importance_sampling_level": "rlhf.importance",
        "reward_weights": "rlhf.rewards",
        "scale_rewards": "rlhf.advantage",
        "loss_type": "rlhf.loss",
        "mask_truncated_completions": "rlhf.mask_truncated",
        "entropy_coef": "rlhf.entropy_coefficient",
        "normalize_advantages": "rlhf.whiten_advantages",
        "reward_clip_range": "rlhf.reward_clip",
        "log_completions": "rlhf.save_rollouts",
        "disable_dropout": "adapter.dropout",
    }

    rlhf: RlhfOptions
    evaluation: PolicyEvaluation = field(default_factory=PolicyEvaluation, metadata=OPERATIONAL)

    @property
    def wants(self) -> Kind:
        return "prompt"

    @property
    def trl_config(self) -> str | None:  # type: ignore[override]
        """TRL's class of the algorithm; those that are alignkit's own have none."""
        return self.trl_configs.get(self.rlhf.algorithm)

    def files_read(self) -> dict[str, list[Path]]:
        rewards = files_of(self.rlhf.rewards, "rlhf.rewards")
        return {**rewards, **files_of(self.rlhf.true_reward, "rlhf.true_reward")}

    def faults(self) -> Iterator[Fault]:
        from alignkit.stages.rlhf.recipe_faults import faults

        yield from super().faults()
        yield from faults(self)
