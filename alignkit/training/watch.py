"""Looking at held-out rows while training goes on: a curve for people, and early stopping."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignkit import ranks
from alignkit.config.recipe import GradientRecipe
from alignkit.console import log
from alignkit.runs.directory import RunDirectory
from alignkit.training.meter import Meter
from alignkit.training.progress import loss_facts
from alignkit.training.trainer import GuardedTrainer

PATIENCE_LOSS = "patience_loss"
WATCHED = "held_out_"
"""Before the name of each figure in metrics.jsonl."""


class HeldOutWatch(TrainerCallback):  # type: ignore[misc]
    """Scores held-out rows every `evaluation.every` steps, and every `schedule.patience_every` for early stopping.

    ``score(model, rows)`` gives the figures of the first held-out rows (None: all), ``loss`` among them where there is
    one; ``facts`` says in a few words what a person sees of the others.

    Early stopping decides the weights, so it looks at all held-out rows whatever `evaluation.rows` says. Its memory
    is metrics.jsonl itself, which a resume cuts back to the checkpoint: nothing else has to be saved.
    """

    def __init__(
        self,
        recipe: GradientRecipe,
        run: RunDirectory,
        meter: Meter,
        score: Callable[[Any, int | None], Mapping[str, float]],
        facts: Callable[[Mapping[str, Any]], list[str]] = loss_facts,
    ) -> None:
        self.recipe, self.run, self.meter, self.score, self.facts = recipe, run, meter, score, facts
        self.trainer: GuardedTrainer | None = None

    def history(self) -> list[tuple[int, float]]:
        """(step, loss) of every check for early stopping so far."""
        return [(int(m["step"]), float(m[PATIENCE_LOSS])) for m in self.run.read_metrics() if PATIENCE_LOSS in m]

    def best_checkpoint(self) -> Path | None:
        """Where the best weights so far were saved; None before the first check."""
        history = self.history()
        if not history:
            return None
        best = min(history, key=lambda item: item[1])
        return self.run.checkpoints / f"checkpoint-{best[0]}"

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.trainer is not None:
            self.trainer.best_checkpoint = ranks.from_first(self.best_checkpoint)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> TrainerControl:
        every, patience = self.recipe.evaluation.every, self.recipe.schedule.patience
        step = state.global_step
        if every is not None and self.recipe.evaluation.rows and step % every == 0:
            figures = self._score(model, self.recipe.evaluation.rows)
            self.run.append_metrics({"step": step, **{WATCHED + name: value for name, value in figures.items()}})
            others = self.facts({name: value for name, value in figures.items() if name != "loss"})
            losses = [f"loss {figures['loss']:.4f}"] if "loss" in figures else []
            log.say(f"step {step}: held-out " + "  ".join([*losses, *others]))
        if patience is not None and step % self.recipe.schedule.patience_every == 0:
            self._check_patience(model, step, patience, control)
        return control

    def _check_patience(self, model: Any, step: int, patience: int, control: TrainerControl) -> None:
        loss = self._score(model, None)["loss"]
        self.run.append_metrics({"step": step, PATIENCE_LOSS: loss})
        history = ranks.from_first(self.history)
        best_step = min(history, key=lambda item: item[1])[0]
        checks_since = sum(1 for s, _ in history if s > best_step)
        if best_step == step:
            control.should_save = True
            if self.trainer is not None:
                self.trainer.best_checkpoint = ranks.from_first(self.best_checkpoint)
        if checks_since >= patience:
            log.say(f"step {step}: no better held-out loss in {patience} checks; stopping, step {best_step} was best.")
            control.should_training_stop = True

    def _score(self, model: Any, rows: int | None) -> Mapping[str, float]:
        began = time.perf_counter()
        figures = self.score(model, rows)
        self.meter.paused += time.perf_counter() - began
        return figures
