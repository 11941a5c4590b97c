"""The distill stage: a student learns a teacher's distribution, or its texts, on the shared path of gradient stages."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from alignkit.config.sections import Model
from alignkit.console import log
from alignkit.data.batching import Collator
from alignkit.data.prepare import Prepared, prepare
from alignkit.data.rows import Encoded
from alignkit.evaluation.cost import cost_of
from alignkit.evaluation.sampling import pad_id
from alignkit.evaluation.stopping import stop_tokens
from alignkit.evaluation.templated import templated_tokenizer
from alignkit.models.loading import Loaded, choose_dtype, load
from alignkit.models.sources import context_length, locate
from alignkit.models.students.make import student_at
from alignkit.models.students.record import read_record
from alignkit.runs.digests import file_digest
from alignkit.runs.directory import RunDirectory
from alignkit.runs.outcome import Outcome
from alignkit.stages.distill import comparison, nested
from alignkit.stages.distill.crossing import remember_places
from alignkit.stages.distill.recipe import Recipe
from alignkit.stages.distill.recipe_faults import TEXT_MODES
from alignkit.stages.distill.rollouts import Rollouts, require_prompts
from alignkit.stages.distill.steps import Pairs, two_tasks
from alignkit.stages.distill.teaching import Teaching
from alignkit.stages.distill.written import answers_of_teacher, steps_of_teacher
from alignkit.training.loop import TrainerParts
from alignkit.training.progress import loss_facts
from alignkit.training.rows import TrainingRows, sample
from alignkit.training.stage import GradientStage
from alignkit.training.trainer import GuardedTrainer

STUDENT = "student"
"""Directory of a run with the student that was made from the teacher, as it was before training."""


class DistillStage(GradientStage):
    """Distillation into a whole model or an adapter."""

    recipe: Recipe
    rollouts: Rollouts | None = None
    _prepared: Any = None
    _plain: Prepared
    """The rows of the data as they are, before a mode makes others of them."""

    def __init__(self, recipe: Recipe, run: RunDirectory) -> None:
        super().__init__(recipe, run)
        self.options = recipe.distill
        self.teaching = Teaching(recipe, run)
        limit = self.teaching.context_length
        if limit is not None and limit < recipe.data.max_length and recipe.distill.tokenizers == "same":
            log.say(f"rows of at most {limit} tokens: the teacher reads no more")
            recipe.data.max_length = limit

    # --- before the journey ------------------------------------------------------------------------------------------

    def _execute(self) -> Outcome:
        # All of the data's and the teacher's faults are told before anything is trained, the teacher included.
        tokenizer, self.installed = templated_tokenizer(self.recipe.model, self.source, self.recipe.data)
        self.prepare(tokenizer)
        if self.options.student.kind != "given":
            self._make_student()
        if self.recipe.evaluation.rows:
            self.teaching.evaluate(self._plain, tokenizer)
        if self.options.baseline:
            found = nested.baseline(self.recipe, self.run, replace(nested.plain(self.recipe.model), **self._start))
            self.run.mark(comparison.BASELINE, found)
        return super()._execute()

    def _make_student(self) -> None:
        """The student from the teacher's weights; from here on it is a model like any other."""
        section = self.options.student
        place = student_at(
            self.run.path / STUDENT,
            lambda: load(self.teaching.section_as_stored),
            section,
            self._plain.train[: section.rows] if section.measured else [],
            seed=self.recipe.seed,
        )
        gc.collect()
        self._start = {"name": str(place), "installed_file": None, "revision": None}
        self.source = locate(Model(name=str(place)))
        self.record = read_record(place)

    _start: Mapping[str, Any] = {}
    """What a made student changes in the model section."""
    record: Any = None
    """What a made student took of its teacher."""

    # --- rows ----------------------------------------------------------------------------------------------------

    def prepare(self, tokenizer: Any) -> Any:
        if self._prepared is not None:
            return self._prepared
        recipe = self.recipe
        self._plain = prepare(recipe.data, tokenizer, digest_file=file_digest, held_out_rows=self.held_out_rows)
        found: Any = self._plain
        if self.options.mode == "on-policy":
            require_prompts(self._plain.train)
        self.teaching.require_fitting(self._plain, tokenizer)
        if self.options.mode == "sequence":
            found = answers_of_teacher(recipe, self.run, self.teaching, self._plain, tokenizer)
        elif self.options.mode == "step-by-step":
            found = steps_of_teacher(recipe, self.run, self.teaching, self._plain, tokenizer)
        self._prepared = found
        return found

    def longest(self, prepared: Any, layout: str) -> int:
        tokens = super().longest(prepared, layout)
        if self.options.mode != "on-policy":
            return tokens
        # The longest prompt is no longer than the longest row.
        most = tokens + self.options.on_policy.max_new_tokens
        limit = context_length(self.source)
        return most if limit is None else min(most, limit)

    def collator(self, layout: str, tokenizer: Any) -> Any:
        plain = self._laid(layout, tokenizer)
        if self.options.mode == "step-by-step":
            return two_tasks(plain)
        return plain if self.rollouts is None else self.rollouts.collated

    def _laid(self, layout: str, tokenizer: Any) -> Collator:
        plain = super().collator(layout, tokenizer)
        return plain if self.options.tokenizers == "same" else remember_places(plain)

    def rows(self, prepared: Any, micro: int) -> TrainingRows:
        if isinstance(prepared.train, Pairs):
            return TrainingRows(prepared.train, lengths=prepared.lengths)
        return super().rows(prepared, micro)

    def sample(self, prepared: Any) -> Any:
        return sample(self._first(prepared, 1))

    def calibration(self, prepared: Any, count: int) -> Sequence[Encoded]:
        return self._first(prepared, count)

    def _first(self, prepared: Any, count: int) -> Sequence[Encoded]:
        if isinstance(prepared.train, Pairs):
            pairs = [prepared.train[at] for at in range(min(count, len(prepared.train)))]
            return [row for pair in pairs for row in pair][:count]
        rows: Sequence[Encoded] = prepared.train[:count]
        return rows

    # --- the models --------------------------------------------------------------------------------------------------

    def _load(self) -> Loaded:
        # The teacher first, so that what memory is left is known when the batch is chosen.
        if self.options.mode not in TEXT_MODES and self.run.read_mark("trained") is None:
            self.teaching.stand()
        return super()._load()

    def ready(self, loaded: Loaded, prepared: Any, resolved: dict[str, Any]) -> None:
        self.teaching.compare_sizes(loaded.model)
        if self.options.mode == "on-policy":
            self.rollouts = Rollouts(
                self.options.on_policy,
                self._laid(resolved["layout"], loaded.tokenizer),
                stop=stop_tokens(loaded.model, loaded.tokenizer),
                pad_id=pad_id(loaded.tokenizer),
                seed=self.recipe.seed,
            )

    # --- training and scores -----------------------------------------------------------------------------------------

    def build_trainer(self, parts: TrainerParts) -> GuardedTrainer:
        # TRL loads for seconds, after the data was looked at.
        if self.options.mode in TEXT_MODES:
            from alignkit.stages.distill.text_trainer import build_text

            alpha = self.options.steps.alpha if self.options.mode == "step-by-step" else None
            return build_text(parts, alpha=alpha)
        from alignkit.stages.distill.hidden import hidden_states
        from alignkit.stages.distill.trainer import build

        return build(
            parts,
            self.teaching.objective(),
            self.teaching.teacher,
            tokens_in_common=self.teaching.tokens_in_common,
            rollouts=self.rollouts,
            crossing=self.teaching.crossing,
            hidden=hidden_states(
                self.options.hidden, parts.loaded.model, self.teaching.teacher, self.record, seed=self.recipe.seed
            ),
        )

    def facts(self, logs: Mapping[str, Any]) -> list[str]:
        found = loss_facts(logs)
        value = logs.get("divergence")
        return [*found, f"divergence {value:.3f}"] if isinstance(value, int | float) else found

    def score(self, model: Any, tokenizer: Any, prepared: Any, when: str) -> dict[str, Any]:
        found = super().score(model, tokenizer, prepared, when)
        # Trained weights lie in fp32; they are compared in the format that whoever uses them will load.
        dtype = choose_dtype(self.recipe.model, next(model.parameters()).device)
        self.run.mark(f"{comparison.COST}_{when}", cost_of(model, dtype=dtype).as_dict())
        return found

    def findings(self) -> dict[str, Any]:
        about = {"teacher": self.teaching.about()}
        if self.record is not None:
            about["student"] = self.record.as_dict()
        return {"distill": about, **comparison.models(self.run)}


def run(recipe: Recipe, run: RunDirectory) -> Outcome:
    """Run the stage in its directory; called by the journey."""
    return DistillStage(recipe, run).execute()
