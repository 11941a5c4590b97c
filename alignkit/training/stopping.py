"""The step at which a stop request takes effect."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignkit.training.signals import StopRequest


class StopWhenAsked(TrainerCallback):  # type: ignore[misc]
    """After each optimizer step: when a signal came, save a checkpoint and leave the loop."""

    def __init__(self, stop: StopRequest) -> None:
        self.stop = stop

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if self.stop.signum is not None:
            control.should_save = True
            control.should_training_stop = True
        return control
