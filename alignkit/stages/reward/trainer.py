"""TRL's RewardTrainer with our losses and our batches: a prompt is read once for its answers.

Letters: A answers of a micro-batch, B its rows, S rows of the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from trl import RewardConfig, RewardTrainer

from alignkit import ranks
from alignkit.stages.reward.objective import Objective
from alignkit.stages.reward.scoring import install_reward_forward, rewards_of
from alignkit.training.loop import TrainerParts
from alignkit.training.shares import ABSENT, FIRST_ROW, present
from alignkit.training.trainer import GuardedTrainer


class RewardModelTrainer(GuardedTrainer, RewardTrainer):  # type: ignore[misc]
    """Build it with :func:`build`."""

    objective: Objective
    logged: Mapping[str, float] = {}
    _rows: int = 1
    """Rows of the step, of all processes."""
    _seen: list[tuple[int, Tensor, dict[str, Any]]]
    """Of the step's micro-batches that have been through: where their rows begin in the step, their rewards (A,)
    without gradients, and what figures want to know of them."""
    _batches: list[Any]
    _passed: int

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The micro-batches of a step, and how many rows they hold."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._batches, self._seen, self._passed = batches, [], 0
        return batches, items

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor:
        """What the loss is divided by: the rows of the step."""
        rows = torch.tensor(sum(len(batch["row_numbers"]) for batch in present(batch_samples)), device=device)
        total: Tensor = self.over_processes(rows)
        self._rows = int(total)
        return total

    def scored_tokens(self, inputs: dict[str, Any]) -> int:
        """One reward an answer."""
        return int(inputs["reward_at"].numel())

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """(): the micro-batch's share of the step's mean loss over its rows."""
        if return_outputs:
            raise ValueError("rewards of several layouts are no model outputs")
        rewards = rewards_of(model, inputs)
        loss = self.objective.losses(rewards, inputs).sum() / self._rows
        batch = self._batches[self._passed]
        if ABSENT not in batch:
            told = {name: batch[name] for name in ("desirable",) if name in batch}
            self._seen.append((batch.get(FIRST_ROW, self._passed), rewards.detach().cpu(), told))
        self._passed += 1
        if self._passed == len(self._batches):
            every = sorted((one for seen in ranks.gathered(self._seen) for one in seen), key=lambda one: one[0])
            self.logged = self.objective.figures([one[1] for one in every], [one[2] for one in every])
        return self.share(loss)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The step's figures beside loss and learning rate."""
        super().log({**logs, **self.logged}, start_time)
        self.logged = {}


def build(parts: TrainerParts, objective: Objective, *, lora_dropout: float) -> RewardModelTrainer:
    """The trainer of a run. ``lora_dropout``: kept where the recipe asks for it; TRL turns all dropout off, so that two
    answers are compared by one and the same model."""
    from alignkit.stages.dpo.trainer import without_bars

    config = RewardConfig(**parts.arguments, max_length=None)
    model = install_reward_forward(parts.loaded.model)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    pad_id = inner.config.pad_token_id
    with without_bars():
        trainer = RewardModelTrainer(
            model=model,
            args=config,
            processing_class=parts.loaded.tokenizer,
            train_dataset=parts.sample,
            data_collator=parts.collate,
            callbacks=parts.callbacks,
            optimizers=(parts.optimizer, None),
        )
    inner.config.pad_token_id = pad_id  # TRL puts the tokenizer's there, and the files' is the one that others read
    if lora_dropout:
        for name, module in model.named_modules():
            if isinstance(module, nn.Dropout) and ".lora_dropout." in name:
                module.p = lora_dropout
    # The loss is divided by the step's rows already; older versions of transformers ask the second attribute.
    trainer.loss_is_scaled_for_ga = True
    trainer.model_accepts_loss_kwargs = True
    trainer.objective = objective
    return trainer
