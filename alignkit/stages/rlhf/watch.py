"""Watching a policy learn: figures in words, looks at held-out prompts, rules that end the run, the best weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignkit.console import log
from alignkit.errors import NumericsError, RunError
from alignkit.evaluation.policy import PolicyScores
from alignkit.evaluation.scores import to_json
from alignkit.runs.directory import RunDirectory
from alignkit.stages.rlhf import stops
from alignkit.stages.rlhf.alarms import Figures, Watcher, clip_share, of_rollout
from alignkit.stages.rlhf.figures import NUMBER, facts, named
from alignkit.stages.rlhf.recipe import RlhfOptions
from alignkit.stages.rlhf.recipe_algorithms import TABLE, settle
from alignkit.stages.rlhf.stops import Ended, Look
from alignkit.training import checkpoints
from alignkit.training.trainer import GuardedTrainer
from alignkit.training.watch import WATCHED

if TYPE_CHECKING:
    from alignkit.stages.rlhf.evaluation import Examination

WARNING, WARNED = "warning", "warned_of"
STOPPED_BY, STOPPED = "stopped_by", "stopped"
LOOK = "look/"
"""Before the names of the figures of a look."""


class PolicyWatch(TrainerCallback):  # type: ignore[misc]
    """Looks at every step, every rollout and every held-out evaluation, says once what looks wrong, and ends the run
    where a rule of `rlhf.stop` says so.

    Its memory is metrics.jsonl: a run that goes on from a checkpoint has seen what stands there, does not say again
    what it said, and ends where it would have ended. It stands behind the callbacks that write that file.
    """

    look: Callable[[Any, int], tuple[Look, dict[str, float]]] | None = None
    trainer: GuardedTrainer | None = None
    """Set once it is built: it is told which checkpoint to spare, and its clock stands still during looks."""
    started: PolicyScores | None = None
    """The evaluation before training."""

    def __init__(self, run: RunDirectory, options: RlhfOptions) -> None:
        self.run, self.options = run, options
        explores = "entropy" in TABLE[options.algorithm].reads
        self.watcher = Watcher(options.algorithm, hold=settle(options).hold, explores=explores)
        self.pending: list[Figures] = []
        self.looks: list[Look] = []
        self.rollouts: list[Figures] = []
        self.ended: Ended | None = None
        self._recall()

    # --- what evaluations tell -------------------------------------------------------------------------------------

    def stand(self, examination: Examination) -> None:
        """Called when everything stands that answers are judged with, before training."""
        watcher = self.watcher
        watcher.weights = {name: weight for name, (_, weight) in examination.rewards.parts.items()}
        watcher.apart, watcher.true_name = examination.true is not None, examination.true_name
        if self.options.stop.every is None:
            return
        self.look = examination.look
        if examination.overlap and self.options.stop.wants_best:
            log.say(
                f"{examination.overlap} held-out prompts are both looked at for rlhf.stop and evaluated at the end, "
                "where the best weights will look a little better than they are; a larger data.holdout parts the two"
            )

    def note(self, figures: Figures) -> None:
        """Figures of held-out prompts at the step that is just ending; told at its end."""
        self.pending.append(figures)

    def end(self, scores: PolicyScores) -> list[str]:
        """Scores after training: what is new in them is said. All warnings of the run, in the order they were given."""
        self._tell(None, self.watcher.held_out("after training", named(scores), last=True))
        return [str(line[WARNING]) for line in self.run.read_metrics() if WARNING in line]

    # --- the trainer's calls -------------------------------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> TrainerControl:
        self.watcher.steps = state.max_steps
        self._recall()
        if self.trainer is not None:
            self.trainer.best_checkpoint = self._best_path()
        if self.ended is not None:  # it ended right before it was interrupted
            control.should_training_stop = True
        elif self.look is not None and not self.looks:
            self._look(model, 0)
        return control

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> TrainerControl:
        step = state.global_step
        for figures in self.pending:
            self._tell(step, self.watcher.held_out(f"at step {step}", figures))
        self.pending.clear()
        stop, every = self.options.stop, self.options.stop.every
        if self.ended is not None:
            control.should_training_stop = True
        elif every is not None and (step % every == 0 or (stop.keep == "best" and step == state.max_steps)):
            self._look(model, step, control)
            self._end(step, stops.fallen(stop, self.looks), control)
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        model: Any = None,
        **kwargs: Any,
    ) -> TrainerControl:
        step = state.global_step
        figures = _numbers(logs or {})
        if not figures or "train_runtime" in figures:  # the closing summary
            return control
        self._tell(step, self.watcher.training(step, figures))
        if NUMBER in figures and self.ended is None:
            self.rollouts.append(of_rollout(figures))
            ended = stops.too_far(self.options.stop, self.rollouts)
            if ended is not None and stops.best(self.looks) is None and self.look is not None:
                self._look(model, step, control)  # these weights are the only ones to keep
            self._end(step, ended, control)
        return control

    # --- looks, and the end ----------------------------------------------------------------------------------------

    def _look(self, model: Any, step: int, control: TrainerControl | None = None) -> None:
        """Look at the held-out prompts; the best weights so far are saved."""
        if self.look is None:
            return
        began = time.perf_counter()
        found, figures = self.look(model, step)
        if self.trainer is not None:
            self.trainer.meter.paused += time.perf_counter() - began
        self.looks.append(found)
        figures |= stops.changes(found, self.looks[0])
        self.run.append_metrics({**{LOOK + name: value for name, value in figures.items()}, **found.line()})
        log.say("  ".join([f"step {step}: {len(found.true)} held-out prompts", *facts(figures)]))
        self._tell(step, self.watcher.held_out(f"at step {step}", figures))
        best = stops.best(self.looks)
        if control is not None and best is not None and best.step == step and self.options.stop.wants_best:
            control.should_save = True
            if self.trainer is not None:
                self.trainer.best_checkpoint = self._best_path()

    def _end(self, step: int, ended: Ended | None, control: TrainerControl) -> None:
        if ended is None:
            return
        self.ended = ended
        self.run.append_metrics({"step": step, STOPPED_BY: ended.rule, STOPPED: ended.sentence})
        log.warn(f"step {step}: stopping, since {ended.sentence}")
        control.should_training_stop = True

    def best_checkpoint(self) -> Path | None:
        """The checkpoint whose weights are the result; None: the last weights are.

        Raises:
            NumericsError: a rule ended the run, and the best weights are worse than what it started from.
            RunError: the checkpoint is gone, or not what was written.
        """
        if self.ended is None and self.options.stop.keep == "last":
            return None
        best = stops.best(self.looks)
        if best is None:
            return None
        worse = stops.worse_than_start(self.looks, best) if self.ended is not None else ""
        if worse and self.ended is not None:
            raise NumericsError(
                f"The run was stopped, since {self.ended.sentence}; and {worse}. There are no weights worth keeping. "
                f"{self.watcher.hold}; or take another reward."
            )
        path = self.run.checkpoints / f"checkpoint-{best.step}"
        trained = self.trainer.state.global_step if self.trainer is not None else None
        reason = checkpoints.damage(path) if best.step != trained else None
        if reason is not None:
            raise RunError(f"{path} holds the best weights of the run, and {reason}. Train anew with --fresh.")
        return path

    def stopped_by(self) -> str | None:
        """The rule that ended the run; None: none did."""
        self._recall()
        return self.ended.rule if self.ended is not None else None

    def findings(self) -> dict[str, Any]:
        """For the manifest's metrics: `looks` (step and true metric of each), and of a run that a rule ended
        `stopped_by`: the `rule`, `why`, the `step`, and `kept_step`, whose weights are the result."""
        self._recall()
        found: dict[str, Any] = {}
        if self.looks:
            found["looks"] = [{"step": look.step, "true_reward": to_json(look.mean)} for look in self.looks]
        best = stops.best(self.looks)
        if self.ended is not None:
            step = next(int(line["step"]) for line in self.run.read_metrics() if STOPPED_BY in line)
            found[STOPPED_BY] = {"rule": self.ended.rule, "why": self.ended.sentence, "step": step}
            found[STOPPED_BY]["kept_step"] = best.step if best is not None else step
        return found

    # --- memory --------------------------------------------------------------------------------------------------

    def _best_path(self) -> Path | None:
        best = stops.best(self.looks)
        return None if best is None else self.run.checkpoints / f"checkpoint-{best.step}"

    def _recall(self) -> None:
        """What the run knows of the time before a resume."""
        before = (self.run.read_mark("evaluated_before") or {}).get("scores")
        if before:
            self.started = PolicyScores.from_dict(before)
        watcher = self.watcher
        watcher.first, self.ended = None, None
        for memory in (watcher.said, watcher.rollouts, watcher.clipped, self.looks, self.rollouts):
            memory.clear()
        for line in self.run.read_metrics():
            look, figures = Look.of(line), _numbers(line)
            if WARNED in line:
                watcher.said.add(str(line[WARNED]))
            elif STOPPED_BY in line:
                self.ended = Ended(str(line[STOPPED_BY]), str(line[STOPPED]))
            elif look is not None:
                self.looks.append(look)
            else:
                if NUMBER in figures:
                    rolled = of_rollout(figures)
                    watcher.first = watcher.first or rolled
                    watcher.rollouts.append(rolled)
                    self.rollouts.append(rolled)
                clipped = clip_share(figures)
                if clipped is not None:
                    watcher.clipped.append(clipped)

    def _tell(self, step: int | None, warnings: Mapping[str, str]) -> None:
        for kind, sentence in warnings.items():
            log.warn(sentence)
            # A line without a step stays when a resume cuts the file: so does the score that it is about.
            line = {"step": step} if step is not None else {}
            self.run.append_metrics({**line, WARNED: kind, WARNING: sentence})


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in line.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and not name.startswith((WATCHED, LOOK))
    }
