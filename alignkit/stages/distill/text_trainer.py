"""TRL's SFTTrainer for what a teacher wrote: plain cross entropy, or the balanced sum of two tasks."""

from __future__ import annotations

from typing import Any

import torch
from trl import SFTConfig, SFTTrainer

from alignkit.stages.distill.steps import balance
from alignkit.training.loop import TrainerParts
from alignkit.training.trainer import GuardedTrainer


class TextTrainer(GuardedTrainer, SFTTrainer):  # type: ignore[misc]
    """Build it with :func:`build_text`."""

    alpha: float | None = None
    """Weight of the labels' loss beside the rationales'; None: there is one task."""

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The micro-batches of a step, whose weights are chosen over the whole step."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.alpha is None or not batches:
            return batches, items
        balance(batches, self.alpha)
        return batches, torch.ones((), device=device)


def build_text(parts: TrainerParts, *, alpha: float | None) -> TextTrainer:
    """The trainer of a run."""
    config = SFTConfig(
        **parts.arguments,
        # Rows come tokenized, masked and cut from our data room.
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
    )
    trainer = TextTrainer(
        model=parts.loaded.model,
        args=config,
        processing_class=parts.loaded.tokenizer,
        train_dataset=parts.sample,
        data_collator=parts.collate,
        callbacks=parts.callbacks,
        optimizers=(parts.optimizer, None),
    )
    trainer.alpha = alpha
    return trainer
