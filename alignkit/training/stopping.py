"""The end of an optimizer step: a stop request takes effect there, and processes tell each other what they did."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignkit import ranks
from alignkit.training.meter import Meter
from alignkit.training.signals import SIGNALS, StopRequest


class StopWhenAsked(TrainerCallback):  # type: ignore[misc]
    """After each optimizer step: when a signal came, to any process, save a checkpoint and leave the loop.

    With several processes ``meter`` counts what all of them did, up to this step.
    """

    def __init__(self, stop: StopRequest, meter: Meter) -> None:
        self.stop, self.meter = stop, meter
        self.told = (0, 0, 0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.told = (0, 0, 0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if ranks.world() > 1:
            self._tell_each_other()
        if self.stop.signum is not None:
            control.should_save = True
            control.should_training_stop = True
        return control

    def _tell_each_other(self) -> None:
        """One sum over the processes: which signals came, and how far the counts went on."""
        meter = self.meter
        counts = (meter.tokens, meter.labelled, meter.rows)
        mine = [now - before for now, before in zip(counts, self.told, strict=True)]
        total = ranks.summed([*(float(self.stop.signum == one) for one in SIGNALS), *mine])
        came, done = total[: len(SIGNALS)], total[len(SIGNALS) :]
        self.told = meter.tokens, meter.labelled, meter.rows = tuple(  # type: ignore[assignment]
            before + round(step) for before, step in zip(self.told, done, strict=True)
        )
        if any(came):
            self.stop.signum = next(one for one, heard in zip(SIGNALS, came, strict=True) if heard)
