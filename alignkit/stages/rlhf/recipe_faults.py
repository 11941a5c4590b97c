"""What is wrong with the options of a policy's training, told without torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from alignkit.errors import Fault
from alignkit.stages.rlhf.recipe import Kl, Recipe, RlhfOptions, Value
from alignkit.stages.rlhf.recipe_algorithms import TABLE, UNREAD_BY_LOSS, settle
from alignkit.stages.rlhf.recipe_trl import trl_faults
from alignkit.stages.rlhf.recipe_watch import watch_faults

OF_ALGORITHMS = {
    "gamma": "gamma",
    "gae_lambda": "gae_lambda",
    "clip": "clip",
    "clip_high": "clip",
    "whiten_rewards": "whiten_rewards",
    "whiten_advantages": "whiten_advantages",
    "loss": "loss",
    "importance": "importance",
    "advantage": "advantage",
    "entropy_coefficient": "entropy",
    "beta": "beta",
    "dpo_loss": "dpo_loss",
}
"""Options that not every algorithm reads, and what `recipe_algorithms.TABLE` calls them."""


def faults(recipe: Recipe) -> Iterator[Fault]:
    """Values that cannot be meant, each with what to write instead."""
    options = recipe.rlhf
    yield from _rewards(options)
    yield from _unread(options)
    yield from _kl(options)
    yield from _groups(recipe)
    yield from _sizes(recipe)
    yield from _value(recipe)
    yield from watch_faults(
        options.stop,
        holdout=recipe.data.holdout,
        patience=recipe.schedule.patience,
        true_reward=bool(options.true_reward),
    )
    yield from _sections(recipe)
    yield from trl_faults(recipe.trl)


def _rewards(options: RlhfOptions) -> Iterator[Fault]:
    for name, sources in (("rewards", options.rewards), ("true_reward", options.true_reward)):
        if (sources or name == "rewards") and not any(one.weight for one in sources):
            yield Fault(
                where=f"rlhf.{name}",
                what="no reward has a weight other than 0, so all answers are worth the same",
                instead="Name one: rlhf.rewards=json, or a path of a reward model.",
            )


def _unread(options: RlhfOptions) -> Iterator[Fault]:
    """What was set and is not read by the algorithm at hand."""
    plain, reads = RlhfOptions(rewards=[]), TABLE[options.algorithm].reads
    for name, group in OF_ALGORITHMS.items():
        if getattr(options, name) != getattr(plain, name) and group not in reads:
            yield _not_read(f"rlhf.{name}", getattr(plain, name), options, group)
    for name in UNREAD_BY_LOSS.get(options.loss or "grpo", ()):
        if getattr(options, name) != getattr(plain, name):
            yield Fault(
                where=f"rlhf.{name}",
                what=f"is set, and the loss {options.loss} does not read it",
                instead=f"Write rlhf.{name}={_shown(getattr(plain, name))}, or take another rlhf.loss.",
            )
    for section, default, group in ((options.kl, Kl(), "kl"), (options.value, Value(), "value")):
        if section != default and group not in reads:
            changed = next(name for name, value in vars(section).items() if value != getattr(default, name))
            yield _not_read(f"rlhf.{group}.{changed}", getattr(default, changed), options, group)


def _not_read(where: str, default: Any, options: RlhfOptions, group: str) -> Fault:
    readers = ", ".join(name for name, one in TABLE.items() if group in one.reads)
    return Fault(
        where=where,
        what=f"is set, and {options.algorithm} does not read it",
        instead=f"Write {where}={_shown(default)}; it is for {readers}.",
    )


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _kl(options: RlhfOptions) -> Iterator[Fault]:
    kl, settled = options.kl, settle(options)
    if "kl" not in TABLE[options.algorithm].reads:
        return
    if settled.kl_where == "off":
        for name in ("estimator", "coefficient"):
            if getattr(kl, name) is not None:
                yield Fault(
                    where=f"rlhf.kl.{name}",
                    what="is set, and rlhf.kl.where is off",
                    instead=f"Write rlhf.kl.{name}=null, or rlhf.kl.where=reward.",
                )
        if kl.control == "adaptive":
            yield Fault(
                where="rlhf.kl.control",
                what="adapts a coefficient, and rlhf.kl.where is off",
                instead="Write rlhf.kl.control=fixed, or rlhf.kl.where=reward.",
            )
    elif settled.kl_coefficient == 0:
        yield Fault(
            where="rlhf.kl.coefficient",
            what="is 0, which holds the policy to nothing, and the reference would be read all the same",
            instead="Write rlhf.kl.where=off.",
        )
    if options.algorithm == "rloo" and settled.kl_where == "loss":
        yield Fault(
            where="rlhf.kl.where",
            what="is loss, and the loss of rloo has no KL: it is part of an answer's reward",
            instead="Write rlhf.kl.where=reward, or off.",
        )
    if options.algorithm == "grpo" and settled.kl_where == "loss" and settled.kl_estimator != "k3":
        yield Fault(
            where="rlhf.kl.estimator",
            what=f"is {settled.kl_estimator}, and grpo's loss has k3 (Shao et al. 2024, equation 4)",
            instead="Write rlhf.kl.estimator=k3, or rlhf.kl.where=reward.",
        )
    if kl.control == "fixed":
        for name in ("target", "horizon"):
            if getattr(kl, name) != getattr(Kl(), name):
                yield Fault(
                    where=f"rlhf.kl.{name}",
                    what="is read by rlhf.kl.control=adaptive, which is fixed",
                    instead="Write rlhf.kl.control=adaptive, or leave it out.",
                )


def _groups(recipe: Recipe) -> Iterator[Fault]:
    """Algorithms that compare the answers to one prompt."""
    options, settled = recipe.rlhf, settle(recipe.rlhf)
    grouped = "groups" in TABLE[options.algorithm].reads
    compared = settled.advantage == "group-batch" and options.algorithm == "reinforce++"
    if (grouped or compared) and options.samples < 2:
        yield Fault(
            where="rlhf.samples",
            what=f"{options.algorithm} compares answers to one prompt, and rlhf.samples is {options.samples}",
            instead="Write rlhf.samples=4, or 2 at least.",
        )
    if options.zero_variance != "keep" and not grouped:
        yield Fault(
            where="rlhf.zero_variance",
            what=f"{options.algorithm} learns also from prompts all of whose answers are worth the same",
            instead="Write rlhf.zero_variance=keep; it is for rloo, grpo, online-dpo.",
        )
    if options.max_draws != RlhfOptions(rewards=[]).max_draws and options.zero_variance != "resample":
        yield Fault(
            where="rlhf.max_draws",
            what="is read by rlhf.zero_variance=resample",
            instead="Write rlhf.zero_variance=resample, or leave it out.",
        )
    if options.algorithm == "grpo" and options.advantage == "batch":
        yield Fault(
            where="rlhf.advantage",
            what="batch leaves out the group's mean, which is what makes grpo",
            instead="Write rlhf.advantage=group-batch, or rlhf.algorithm=reinforce++.",
        )
    if options.algorithm == "reinforce++" and options.advantage in ("group", "group-std"):
        yield Fault(
            where="rlhf.advantage",
            what=f"{options.advantage} is grpo's; reinforce++ normalises over the whole rollout",
            instead="Write rlhf.advantage=batch, or group-batch (REINFORCE++-baseline).",
        )
    if options.algorithm == "online-dpo":
        if recipe.batch.size % options.samples:
            yield Fault(
                where="batch.size",
                what=f"{recipe.batch.size} answers hold no whole number of prompts of {options.samples} answers, whose "
                "best and worst are a pair",
                instead=f"Write a multiple of {options.samples}.",
            )
        elif recipe.batch.micro != "auto" and recipe.batch.micro % options.samples:
            yield Fault(
                where="batch.micro",
                what=f"{recipe.batch.micro} answers hold no whole number of prompts of {options.samples} answers",
                instead=f"Write a multiple of {options.samples} that divides {recipe.batch.size}, or auto.",
            )
        if options.mask_truncated:
            yield Fault(
                where="rlhf.mask_truncated",
                what="online-dpo compares two answers, and one that teaches nothing cannot be compared",
                instead="Write rlhf.missing_eos_penalty=1, which makes it the worse one.",
            )


def _sizes(recipe: Recipe) -> Iterator[Fault]:
    options = recipe.rlhf
    if options.max_new_tokens < 1:
        yield Fault(
            where="rlhf.max_new_tokens",
            what=f"{options.max_new_tokens} tokens are no answer",
            instead="Write 1 at least; 128 is the default.",
        )
    answers = options.prompts * options.samples
    if answers % recipe.batch.size:
        yield Fault(
            where="batch.size",
            what=f"a rollout has rlhf.prompts={options.prompts} times rlhf.samples={options.samples} = {answers} "
            f"answers, which {recipe.batch.size} does not divide",
            instead=f"Write a divisor of {answers}; batch.size={answers} takes one step with all of them.",
        )
    if options.overlong_buffer is not None and options.overlong_buffer >= options.max_new_tokens:
        yield Fault(
            where="rlhf.overlong_buffer",
            what=f"{options.overlong_buffer} tokens are not less than rlhf.max_new_tokens={options.max_new_tokens}",
            instead="Write a fifth of it (Yu et al. 2025 take 4,096 of 20,480).",
        )


def _value(recipe: Recipe) -> Iterator[Fault]:
    options = recipe.rlhf
    if options.algorithm != "ppo":
        return
    if options.value.kind == "adapter" and recipe.adapter.kind == "none":
        yield Fault(
            where="rlhf.value.kind",
            what="adapter needs a frozen base beside the policy, and adapter.kind is none: all weights are trained",
            instead="Write rlhf.value.kind=trunk, or adapter=lora.",
        )
    if options.value.detach and options.value.kind == "adapter":
        yield Fault(
            where="rlhf.value.detach",
            what="cuts the head off the policy's trunk, and the head of rlhf.value.kind=adapter stands on its own",
            instead="Leave it out.",
        )
    if options.samples == 1 and options.prompts == 1 and options.whiten_advantages is not False:
        yield Fault(
            where="rlhf.whiten_advantages",
            what="one answer's advantages cannot be compared with others'",
            instead="Draw more answers (rlhf.prompts, rlhf.samples), or write rlhf.whiten_advantages=false.",
        )


def _sections(recipe: Recipe) -> Iterator[Fault]:
    """Keys of the shared sections that mean nothing to a policy that writes its own answers."""
    if recipe.data.packing == "best-fit":
        yield Fault(
            where="data.packing",
            what="best-fit makes blocks of rows, and the answers are not known before they are drawn",
            instead="Write data.packing=true, or data.packing=false to pad.",
        )
    if recipe.data.train_on != "assistant":
        yield Fault(
            where="data.train_on",
            what="says whose tokens are imitated, and here the policy's own answers are rewarded",
            instead="Leave it out.",
        )
    if recipe.data.group_by_length:
        yield Fault(
            where="data.group_by_length",
            what="orders rows by length, and the prompts of a rollout are always read in that order",
            instead="Leave it out.",
        )
