"""The reward stage: a scalar head on a language model learns what an answer is worth."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from alignkit.console import log
from alignkit.data.branches import Branched
from alignkit.data.comparisons import Wanted
from alignkit.data.encoding.closing import closing
from alignkit.data.pairs import PreparedPairs, prepare_pairs
from alignkit.data.rows import Encoded
from alignkit.errors import Fault, RequestError
from alignkit.evaluation.rewarded import RewardScores
from alignkit.evaluation.sampling import pad_id
from alignkit.evaluation.scores import headline
from alignkit.models.classifier import load_scored
from alignkit.models.loading import Loaded
from alignkit.models.score_head import fold_scored, with_score_head
from alignkit.models.sources import context_length, locate
from alignkit.runs.digests import file_digest
from alignkit.runs.directory import RunDirectory
from alignkit.runs.outcome import Outcome
from alignkit.stages.dpo.rows import StepOrder, demonstration
from alignkit.stages.reward.evaluation import Examination
from alignkit.stages.reward.objective import Objective
from alignkit.stages.reward.recipe import Recipe
from alignkit.stages.reward.rows import Closed, Numbered, collator, stand_in
from alignkit.stages.reward.scoring import score_rows
from alignkit.stages.reward.sharing import choose_layout
from alignkit.training import results
from alignkit.training.loop import TrainerParts
from alignkit.training.rows import TrainingRows
from alignkit.training.stage import GradientStage

if TYPE_CHECKING:
    from alignkit.stages.reward.trainer import RewardModelTrainer

MERGED = "merged_rewards"
"""How far merging moved the rewards: a mark, and a key of the metrics."""
DRIFT_ROWS = 16


class RewardStage(GradientStage):
    """A reward model, trained in whole or as an adapter with its head."""

    recipe: Recipe
    examination: Examination
    objective: Objective

    def __init__(self, recipe: Recipe, run: RunDirectory) -> None:
        super().__init__(recipe, run)
        self.options = recipe.reward

    # --- rows ----------------------------------------------------------------------------------------------------

    def prepare(self, tokenizer: Any) -> PreparedPairs:
        _require_end_tokens(tokenizer, self.source.place)
        how = closing(tokenizer)
        limit = context_length(self.source)
        if how is not None and limit is not None:
            self.recipe.data.max_length = min(self.recipe.data.max_length, limit - len(how.add))
        prepared = prepare_pairs(
            self.recipe.data,
            tokenizer,
            wants=cast("Wanted", self.recipe.wants),
            digest_file=file_digest,
            held_out_rows=self.held_out_rows,
            truncation=self.options.truncation,
            odd_scores=self.options.odd_scores,
        )
        self.objective = objective_of(self.recipe, prepared)
        self.train: Sequence[Branched] = prepared.train
        self.held_out: Sequence[Branched] = prepared.held_out
        if how is not None:
            self.train, self.held_out = Closed(prepared.train, how), Closed(prepared.held_out, how)
        self.examination = Examination(self.recipe, self.run, self.objective, tokenizer)
        return prepared

    def layout(self, loaded: Loaded, prepared: Any) -> str:
        rows = self.train[:2]
        packing = bool(self.recipe.data.packing)
        longest = int(prepared.lengths.max())
        return choose_layout(loaded.model, rows, attention=loaded.attention, packing=packing, longest=longest)

    def longest(self, prepared: Any, layout: str) -> int:
        tokens = int(prepared.lengths.max())
        # A prompt that is read for each answer counts twice; at most all of the row is prompt.
        return tokens if layout == "shared" or self.options.learn != "pairs" else 2 * tokens

    def collator(self, layout: str, tokenizer: Any) -> Any:
        return collator(layout, self.pad_id)

    def rows(self, prepared: Any, micro: int) -> TrainingRows:
        return TrainingRows(Numbered(self.train), lengths=prepared.lengths)

    def order(self, rows: TrainingRows) -> StepOrder:
        recipe = self.recipe
        grouped = recipe.data.group_by_length
        return StepOrder(rows.lengths, seed=recipe.seed, batch=recipe.batch.size, group_by_length=grouped)

    def sample(self, prepared: Any) -> Any:
        return stand_in()

    def demonstrations(self, prepared: Any) -> Sequence[Encoded]:
        return []  # nothing predicts a token here

    def calibration(self, prepared: Any, count: int) -> Sequence[Encoded]:
        return [demonstration(row) for row in self.train[:count]]

    # --- the model ---------------------------------------------------------------------------------------------------

    def _load(self) -> Loaded:
        return with_score_head(super()._load(), seed=self.recipe.seed)

    def reload(self, known: dict[str, Any]) -> Loaded:
        section = results.trained_section(self.recipe, self.run, known)
        return load_scored(section, self.recipe.quantization, source=locate(section))

    def ready(self, loaded: Loaded, prepared: Any, resolved: dict[str, Any]) -> None:
        inner = loaded.model.get_base_model() if hasattr(loaded.model, "peft_config") else loaded.model
        self.pad_id = int(inner.config.pad_token_id)
        self.examination.collate = collator(resolved["layout"], self.pad_id)

    def save(self, product: Loaded, prepared: Any) -> None:
        """As all stages do; what merging does to rewards is measured on rewards."""
        merging = results.save_due(self.recipe, self.run) and results.wanted_save(self.recipe) in ("merged", "both")
        rows = self.held_out[:DRIFT_ROWS] if merging and hasattr(product.model, "peft_config") else []
        before = self._rewards(product.model, rows)
        results.save(self.recipe, self.run, product, [], folded=fold_scored)
        if rows:
            moved = float(np.abs(self._rewards(product.model, rows) - before).max())
            spread = float(before.std())
            self.run.mark(MERGED, {"rows": len(rows), "moved": moved, "deviation": spread})
            log.say(
                f"merged; rewards of {len(rows)} held-out rows moved by at most {moved:.2g} "
                f"(their deviation is {spread:.2g})"
            )

    def _rewards(self, model: Any, rows: Sequence[Branched]) -> Any:
        return score_rows(model, rows, self.examination.collate, batch=self.recipe.evaluation.batch)

    # --- training and scores -----------------------------------------------------------------------------------------

    def build_trainer(self, parts: TrainerParts) -> RewardModelTrainer:
        from alignkit.stages.reward.trainer import build  # TRL loads for seconds, after the data was looked at

        return build(parts, self.objective, lora_dropout=self.recipe.adapter.dropout)

    def facts(self, logs: Mapping[str, Any]) -> list[str]:
        shapes = {
            "loss": "loss {:.3f}",
            "reward/accuracy": "accuracy {:.0%}",
            "reward/margin": "margin {:.2f}",
            "accuracy": "accuracy {:.0%}",
        }
        return [shape.format(logs[name]) for name, shape in shapes.items() if isinstance(logs.get(name), int | float)]

    def score(self, model: Any, tokenizer: Any, prepared: Any, when: str) -> dict[str, Any]:
        began = time.monotonic()
        return self.examination.scores(model, self.held_out, when=when, began=began).as_dict()

    def headline(self, before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any] | None:
        return headline(*(RewardScores.from_dict(found) if found else None for found in (before, after)))

    def watched(self, model: Any, tokenizer: Any, prepared: Any, rows: int | None) -> Mapping[str, float]:
        return self.examination.watched(model, self.held_out[:rows])

    def findings(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.options.learn == "scores" and self.options.standardize:
            found["scores"] = {"mean": self.objective.mean, "deviation": self.objective.deviation}
        moved = self.run.read_mark(MERGED)
        return {**found, MERGED: moved} if moved else found


def objective_of(recipe: Recipe, prepared: PreparedPairs) -> Objective:
    """What is minimised, with what the training rows say of it.

    Raises RequestError for margins without scores, and for scores that are all the same.
    """
    options = recipe.reward
    if options.learn == "scores":
        scores = np.array([row.score for row in prepared.train], np.float64)
        if scores.std() == 0:
            raise RequestError(
                Fault(
                    where="data",
                    what=f"all {len(scores):,} answers to train on have the score {scores[0]:g}, so there is nothing "
                    "to tell apart",
                    instead="Give answers of different worth, or another column: data.columns={score: NAME}.",
                )
            )
        if options.standardize:
            mean, deviation = float(scores.mean()), float(scores.std())
            log.say(f"scores: mean {mean:.3g}, deviation {deviation:.3g}; learned less the one and over the other")
            return Objective(options, mean, deviation)
    if options.margin:
        without = next((row.where for row in prepared.train if row.margin is None), None)
        if without is not None:
            raise RequestError(
                Fault(
                    where="reward.margin",
                    what=f"it counts the difference of a pair's own scores, and {without} has none",
                    instead="Give every row chosen_score and rejected_score (or margin), or write reward.margin=0.",
                )
            )
    return Objective(options)


def _require_end_tokens(tokenizer: Any, place: str) -> None:
    """Where a row ends is told by what it is padded with. Raises RequestError for a tokenizer without such a token."""
    if pad_id(tokenizer) or tokenizer.pad_token_id is not None:
        return
    raise RequestError(
        Fault(
            where="model.name",
            what=f"the tokenizer of {place} has neither a pad nor an eos token, and they tell where an answer ends, "
            "which is where its reward is read",
            instead="Name one in its tokenizer_config.json (pad_token).",
        )
    )


def run(recipe: Recipe, run: RunDirectory) -> Outcome:
    """Run the stage in its directory; called by the journey."""
    return RewardStage(recipe, run).execute()
