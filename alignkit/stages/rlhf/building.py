"""The trainer of an algorithm, built on transformers' or TRL's, with nothing of theirs that would load or draw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from alignkit.evaluation.inference import bare
from alignkit.stages.rlhf.recipe_algorithms import Settled
from alignkit.stages.rlhf.trainer import RolloutTrainer, Setting, router_coefficient
from alignkit.training.loop import TrainerParts


def build(parts: TrainerParts, setting: Setting, *, steps: int, lora_dropout: float) -> RolloutTrainer:
    """The trainer of a run. ``steps``: optimizer steps of the whole run; ``lora_dropout``: kept where the recipe asks
    for it, while all other dropout is off, so that the policy differs from its reference by what it learned alone."""
    model = parts.loaded.model
    arguments = {
        **parts.arguments,
        # The loader counts steps; what a step holds is the trainer's to say.
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": 1,
        "max_steps": steps,
        "dataloader_num_workers": 0,
    }
    name = setting.settled.algorithm
    make = {"grpo": _grpo, "rloo": _rloo}.get(name, _own)
    trainer = make(parts, arguments, setting.settled)
    _rest_dropout(model, lora_dropout)
    if make is _own:
        trainer.router_weight = router_coefficient(bare(model))
    # A part's loss is a share of the step's already; older versions of transformers ask the second attribute.
    trainer.loss_is_scaled_for_ga = True
    trainer.model_accepts_loss_kwargs = True
    trainer.setting = setting
    return trainer


def _own(parts: TrainerParts, arguments: dict[str, Any], settled: Settled) -> RolloutTrainer:
    from transformers import TrainingArguments

    from alignkit.stages.rlhf.own_trainers import OnlineDpoTrainer, SurrogateTrainer

    kind = OnlineDpoTrainer if settled.algorithm == "online-dpo" else SurrogateTrainer
    found: RolloutTrainer = kind(
        model=parts.loaded.model,
        args=TrainingArguments(**arguments),
        processing_class=parts.loaded.tokenizer,
        train_dataset=parts.sample,
        data_collator=parts.collate,
        callbacks=parts.callbacks,
        optimizers=(parts.optimizer, None),
    )
    return found


def _grpo(parts: TrainerParts, arguments: dict[str, Any], settled: Settled) -> RolloutTrainer:
    from trl import GRPOConfig

    from alignkit.stages.rlhf.trl_trainers import GrpoTrainer

    config = GRPOConfig(
        **arguments,
        **_unused(),
        loss_type=settled.loss,
        importance_sampling_level=settled.importance,
        epsilon=settled.clip_low,
        # Of cispo TRL wants the largest ratio itself.
        epsilon_high=settled.clip_high + (settled.loss == "cispo"),
        max_completion_length=settled.longest,
    )
    return _borrowed(GrpoTrainer, parts, config)


def _rloo(parts: TrainerParts, arguments: dict[str, Any], settled: Settled) -> RolloutTrainer:
    from trl import RLOOConfig

    from alignkit.stages.rlhf.trl_trainers import RlooTrainer

    config = RLOOConfig(
        **arguments,
        **_unused(),
        epsilon=settled.clip_low,
        epsilon_high=settled.clip_high,
        max_completion_length=settled.longest,
    )
    return _borrowed(RlooTrainer, parts, config)


def _unused() -> dict[str, Any]:
    """What TRL's own rollouts would read. With beta 0 it loads no reference; the trainer has beta afterwards."""
    return {"beta": 0.0, "num_generations": 2, "generation_batch_size": 2, "disable_dropout": False}


def _borrowed(kind: Callable[..., Any], parts: TrainerParts, config: Any) -> RolloutTrainer:
    """A trainer of TRL's, told of a reward that nobody asks."""
    tokenizer, model = parts.loaded.tokenizer, bare(parts.loaded.model)
    places = [(tokenizer, "pad_token"), (tokenizer, "padding_side"), (model.config.get_text_config(), "pad_token_id")]
    if getattr(model, "generation_config", None) is not None:
        places.append((model.generation_config, "pad_token_id"))
    before = [(place, name, getattr(place, name, None)) for place, name in places]
    found: Any = kind(
        model=parts.loaded.model,
        reward_funcs=_nothing,
        args=config,
        processing_class=tokenizer,
        train_dataset=parts.sample,
        callbacks=parts.callbacks,
        optimizers=(parts.optimizer, None),
    )
    for place, name, value in before:  # the result's tokenizer and configuration are those of the start
        setattr(place, name, value)
    found.data_collator = parts.collate
    # TRL adds the router's loss to every part with a weight that goes with the kind of loss; here it has the answers'.
    if found.aux_loss_enabled:
        found.router_weight, found.aux_loss_enabled = found.router_aux_loss_coef, False
    borrowed: RolloutTrainer = found
    return borrowed


def _nothing(*, completions: list[Any], **kwargs: Any) -> list[float]:
    return [0.0] * len(completions)


def _rest_dropout(model: Any, lora_dropout: float) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            module.p = lora_dropout if ".lora_dropout." in name else 0.0
