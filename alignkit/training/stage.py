"""The life of a gradient stage, the same for sft, lora and every stage that trains weights.

Phases, each with a mark in RUN/state when it is done, so that a run that was cut off repeats none of them:
data checked -> model loaded -> evaluated before -> trained -> evaluated after -> saved. A stage subclasses
``GradientStage`` and says how its rows are prepared and which trainer it uses.
"""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignkit import ranks
from alignkit.config.recipe import GradientRecipe
from alignkit.console import log
from alignkit.data.batching import Collator, RowOrder, flatten, pad
from alignkit.data.rows import Encoded
from alignkit.data.templates.install import Installed
from alignkit.errors import RunError
from alignkit.evaluation.probe import probe
from alignkit.evaluation.sampling import pad_id
from alignkit.evaluation.scores import Scores, headline
from alignkit.evaluation.scoring import held_out_loss
from alignkit.evaluation.templated import templated_tokenizer, with_template
from alignkit.models.adapters import attach, trainable_summary
from alignkit.models.loading import Loaded, load
from alignkit.models.sources import context_length, locate
from alignkit.runs.directory import RunDirectory
from alignkit.runs.outcome import Outcome
from alignkit.training import cards, precision, results, trackers
from alignkit.training.loop import Plan, TrainerParts, train
from alignkit.training.memory import is_out_of_memory, out_of_memory_message
from alignkit.training.progress import loss_facts
from alignkit.training.resolving import resolved
from alignkit.training.rows import Prepared, TrainingRows, blocks_of, sample
from alignkit.training.signals import StopRequest
from alignkit.training.trainer import GuardedTrainer


class GradientStage(ABC):
    """One run of a stage that trains weights. Override ``prepare`` and ``build_trainer``; a stage whose rows are not
    demonstrations overrides what says how they lie in a batch, how they are scored and what is shown of them, too."""

    tokens_at_once: Mapping[str, int] = {}  # by device: beyond these, more rows in a forward pass gain nothing
    width_multiple: int | None = None  # of the tokens of a flattened batch

    def __init__(self, recipe: GradientRecipe, run: RunDirectory) -> None:
        self.recipe, self.run = recipe, run
        self.source = locate(recipe.model)
        self.installed: Installed | None = None
        limit = self.reads()
        if limit is not None and limit < recipe.data.max_length:
            log.say(f"rows of at most {limit} tokens: the model reads no more")
            recipe.data.max_length = limit

    # --- what a stage says ---------------------------------------------------------------------------------------

    def reads(self) -> int | None:
        """Tokens of the longest row that the model takes; None: not known."""
        return context_length(self.source)

    @abstractmethod
    def prepare(self, tokenizer: Any) -> Prepared:
        """Rows to tokens and masks; every fault of the data is raised here, before any weight is read."""

    @abstractmethod
    def build_trainer(self, parts: TrainerParts) -> GuardedTrainer:
        """The stage's trainer: a ``GuardedTrainer`` over a TRL trainer."""

    def ready(self, loaded: Loaded, prepared: Prepared, resolved: dict[str, Any]) -> None:  # noqa: B027 -- most need nothing
        """Called when a model stands, before it is scored or trained. ``resolved``: what every `auto` became."""

    def begin(self, loaded: Loaded, prepared: Prepared) -> None:  # noqa: B027 -- most need nothing
        """Called when the model was scored as it was, before anything of it is trained or an adapter put on it."""

    def layout(self, loaded: Loaded, prepared: Prepared) -> str:
        """How rows lie in a batch; ``collator`` gets it back. Called once the model stands as it was loaded."""
        return precision.layout(self.recipe, loaded)

    def longest(self, prepared: Prepared, layout: str) -> int:
        """Tokens that the longest training row takes in a batch."""
        return self.recipe.data.max_length if self.recipe.data.packing == "best-fit" else int(prepared.lengths.max())

    def collator(self, layout: str, tokenizer: Any) -> Collator:
        """Rows to batches."""
        if layout == "flattened":
            return flatten(pad_to_multiple_of=self.width_multiple)
        return pad(pad_id(tokenizer))

    def rows(self, prepared: Prepared, micro: int) -> TrainingRows:
        """What the data loader asks for; ``micro`` items go through the model at once."""
        return TrainingRows(prepared.train, blocks_of(self.recipe, prepared, micro))

    def order(self, rows: TrainingRows) -> RowOrder:
        """The order in which an epoch takes them."""
        recipe = self.recipe
        grouped = recipe.data.group_by_length
        return RowOrder(rows.lengths, seed=recipe.seed, batch=recipe.batch.size, group_by_length=grouped)

    def sample(self, prepared: Prepared) -> Any:
        """A `datasets.Dataset` of one row that the TRL trainer may look at while it is built."""
        return sample(prepared.train)

    def demonstrations(self, prepared: Prepared) -> Sequence[Encoded]:
        """Held-out rows as texts to be predicted: what a merge's drift is measured on."""
        return prepared.held_out

    def calibration(self, prepared: Prepared, count: int) -> Sequence[Encoded]:
        """The first training rows as texts to be predicted, for initialisations that look at data."""
        return prepared.train[:count]

    def scored_on(self, prepared: Prepared) -> str | None:
        """What `score` looks at, in words; None: there is nothing to look at."""
        count = min(len(prepared.held_out), self.recipe.evaluation.rows)
        return f"{count} held-out rows" if count else None

    def score(self, model: Any, tokenizer: Any, prepared: Prepared, when: str) -> dict[str, Any]:
        """Scores on held-out rows for the manifest: plain JSON values. ``when``: before or after."""
        return probe(model, tokenizer, prepared.held_out, self.recipe.evaluation).as_dict()

    def headline(self, before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any] | None:
        """The one figure of both scores to show in a listing."""
        return headline(*(Scores.from_dict(found) if found else None for found in (before, after)))

    def watched(self, model: Any, tokenizer: Any, prepared: Prepared, rows: int | None) -> Mapping[str, float]:
        """Figures on the first held-out rows (None: all) while training goes on; early stopping lowers ``loss``."""
        held_out = prepared.held_out[:rows]
        return {"loss": held_out_loss(model, held_out, pad_id=pad_id(tokenizer))["loss"]}

    def callbacks(self, prepared: Prepared) -> list[Any]:
        """Further callbacks of the trainer."""
        return []

    def facts(self, logs: Mapping[str, Any]) -> list[str]:
        """What the progress line says of a step's figures."""
        return loss_facts(logs)

    def trained(self, loaded: Loaded) -> None:  # noqa: B027 -- most need nothing
        """Called after the last step, before anything is written: what stood in the model for training alone goes."""

    def best_checkpoint(self) -> Path | None:
        """Called after the last step: the checkpoint whose weights are the result in place of the last ones; None: the
        last ones are, or those that early stopping kept. Raises NumericsError where no weights are worth keeping."""
        return None

    def stopped_by(self) -> str | None:
        """The rule of the stage's own that ended the training before its last step; None: none did."""
        return None

    def reload(self, known: dict[str, Any]) -> Loaded:
        """The trained model of a run whose training is done, as the next stage would load it. ``known``: what every
        `auto` became. Raises RunError when the weights are gone."""
        return results.reload(self.recipe, self.run, known)

    def save(self, product: Loaded, prepared: Prepared) -> None:
        """Put what was trained where `save` wants it, merged if asked."""
        results.save(self.recipe, self.run, product, self.demonstrations(prepared))

    def findings(self) -> dict[str, Any]:
        """What else the manifest's metrics say: plain JSON values."""
        return {}

    @property
    def held_out_rows(self) -> int | None:
        """How many held-out rows anything will look at; None: all, for early stopping."""
        if self.recipe.schedule.patience is not None:
            return None
        return max(self.recipe.evaluation.rows, results.DRIFT_ROWS)

    # --- the journey ---------------------------------------------------------------------------------------------

    def execute(self) -> Outcome:
        """Run what is left of the stage and return its outcome."""
        try:
            return self._execute()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            known = self.run.read_mark("resolved") or {}
            message = out_of_memory_message(
                self.recipe,
                error,
                micro=known.get("micro", 1),
                checkpointing=known.get("gradient_checkpointing", False),
            )
            raise RunError(message) from error

    def _execute(self) -> Outcome:
        with StopRequest().listening() as stop:
            log.say(self.source.said)
            tokenizer, self.installed = templated_tokenizer(self.recipe.model, self.source, self.recipe.data)
            with ranks.first_then_others():  # the others find the rows on the disk
                prepared = self.prepare(tokenizer)
            for line in prepared.report.lines():
                log.say(line)
            self._keep_skipped(prepared)
            product = None
            trained = ranks.from_first(lambda: self.run.read_mark("trained"))
            if trained is None:
                product = self._train(prepared, stop)
                ranks.part()
            if not ranks.is_first():
                return Outcome(result=self.run.model_path)  # what is left is work for one
            if trained is not None and self._evaluation_due("evaluated_before"):
                base = self._load()
                self.ready(base, prepared, self.run.read_mark("resolved") or {})
                self._evaluate("evaluated_before", base.model, tokenizer, prepared)
                del base
                gc.collect()
            if product is None and (self._evaluation_due("evaluated_after") or results.save_due(self.recipe, self.run)):
                known = self.run.read_mark("resolved") or {}
                product = self.reload(known)
                self.ready(product, prepared, known)
            if product is not None:
                self._evaluate("evaluated_after", product.model, tokenizer, prepared)
                self.save(product, prepared)
            return self._outcome(prepared)

    def _keep_skipped(self, prepared: Prepared) -> None:
        """Rows that were left out of the data, into the run."""
        if not prepared.skipped or not ranks.is_first():
            return
        file = self.run.path / "skipped.jsonl"
        file.unlink(missing_ok=True)
        for source in prepared.skipped:
            source.write_skipped(file)
        log.warn(f"the rows that cannot be used stand in {file}")

    def _load(self) -> Loaded:
        loaded = load(precision.model_section(self.recipe), self.recipe.quantization, source=self.source)
        return loaded if self.installed is None else with_template(loaded, self.installed)

    def _train(self, prepared: Prepared, stop: StopRequest) -> Loaded:
        loaded = self._load()
        resolved = self._resolve(loaded, prepared)
        with ranks.first_then_others():
            self.ready(loaded, prepared, resolved)
            if ranks.is_first():
                self._evaluate("evaluated_before", loaded.model, loaded.tokenizer, prepared)
            self.begin(loaded, prepared)
        if self.recipe.adapter.kind != "none":
            loaded.model = attach(
                loaded,
                self.recipe.adapter,
                seed=self.recipe.seed,
                calibration=results.calibration_batches(
                    self.recipe, self.calibration(prepared, results.CALIBRATION_ROWS), loaded.tokenizer
                ),
            )
        else:
            loaded.model.requires_grad_(True)
        trainable, total = trainable_summary(loaded.model)
        log.say(f"training {trainable:,} of {total:,} weights ({100 * trainable / total:.2f}%)")
        with trackers.inside(self.run):
            figures = train(self.recipe, self.run, self._plan(loaded, prepared, resolved), loaded, resolved, stop)
        self.trained(loaded)
        if not ranks.is_first():
            return loaded
        results.keep_trained(self.recipe, self.run, loaded, self.source)
        self.run.mark("trained", figures)
        return loaded

    def _plan(self, loaded: Loaded, prepared: Prepared, resolved: dict[str, Any]) -> Plan:
        rows = self.rows(prepared, resolved["micro"])
        return Plan(
            prepared=prepared,
            rows=rows,
            order=self.order(rows),
            sample=self.sample(prepared),
            collate=self.collator(resolved["layout"], loaded.tokenizer),
            layout=resolved["layout"],
            autocast=resolved["autocast"],
            build_trainer=self.build_trainer,
            watched=lambda model, rows: self.watched(model, loaded.tokenizer, prepared, rows),
            callbacks=self.callbacks(prepared),
            facts=self.facts,
            best=self.best_checkpoint,
        )

    def _resolve(self, loaded: Loaded, prepared: Prepared) -> dict[str, Any]:
        layout = self.layout(loaded, prepared)
        self.width_multiple = precision.width_multiple(loaded)
        return resolved(
            self.recipe,
            self.run,
            loaded,
            layout=layout,
            longest=self.longest(prepared, layout),
            at_once=self.tokens_at_once.get(loaded.device.type),
        )

    # --- evaluation ----------------------------------------------------------------------------------------------

    def _evaluation_due(self, mark: str) -> bool:
        done = self.run.read_mark(mark)
        return done is None or done.get("evaluation") != self.recipe.evaluation.decides()

    def _evaluate(self, mark: str, model: Any, tokenizer: Any, prepared: Prepared) -> None:
        if not self._evaluation_due(mark):
            return
        scores: dict[str, Any] | None = None
        material = self.scored_on(prepared)
        if material is not None:
            when = "before" if mark == "evaluated_before" else "after"
            log.say(f"evaluating {when} training on {material}")
            scores = self.score(model, tokenizer, prepared, when)
        self.run.mark(mark, {"evaluation": self.recipe.evaluation.decides(), "scores": scores})

    def _outcome(self, prepared: Prepared) -> Outcome:
        marks = {when: self.run.read_mark(f"evaluated_{when}") or {} for when in ("before", "after")}
        metrics: dict[str, Any] = {when: mark.get("scores") for when, mark in marks.items()}
        metrics["headline"] = self.headline(metrics["before"], metrics["after"])
        metrics["training"] = self.run.read_mark("trained")
        metrics["data"] = prepared.report.as_dict()
        metrics |= self.findings()
        drift = (self.run.read_mark("saved") or {}).get("drift")
        if drift:
            metrics["drift"] = drift
        cards.write_cards(self.recipe, self.run, self.source, metrics)
        return Outcome(
            result=self.run.model_path,
            metrics=metrics,
            resolved=self.run.read_mark("resolved") or {},
            stopped_by=self.stopped_by(),
        )
