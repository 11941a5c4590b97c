"""The frequencies of the window whose turn it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignkit.console import log
from alignkit.models.rope import RopePlan
from alignkit.models.rope.live import change_rope
from alignkit.stages.extend_context.curriculum import Curriculum


class WindowSchedule(TrainerCallback):  # type: ignore[misc]
    """Before each optimizer step: where another window begins, the model gets its frequencies. Told by the number of
    the step alone, so a resumed run has the right ones."""

    def __init__(self, curriculum: Curriculum, plans: Sequence[RopePlan]) -> None:
        self.curriculum, self.plans = curriculum, plans
        self.current: int | None = None

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        part = self.curriculum.part_at(state.global_step)
        if part == self.current:
            return
        self.current = part
        change_rope(inner_model(model), self.plans[part])
        if len(self.plans) > 1:
            log.say(f"step {state.global_step + 1}: rows for {self.plans[part].target:,} tokens from here on")


def inner_model(model: Any) -> Any:
    """The language model inside wrappers of adapters and of several devices."""
    inner = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "peft_config") else inner
