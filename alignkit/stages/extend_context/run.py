"""The extend-context stage: other frequencies into the configuration, training on long rows, and the proof."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from alignkit.console import log
from alignkit.data.batching import Collator
from alignkit.data.prepare import Prepared, prepare
from alignkit.data.report import Report
from alignkit.errors import RequestError
from alignkit.evaluation.long_context.measure import long_context
from alignkit.evaluation.long_context.scores import LongScores
from alignkit.evaluation.sampling import pad_id
from alignkit.evaluation.scores import headline
from alignkit.evaluation.scoring import held_out_loss
from alignkit.models.hardware import choose_device, choose_dtype
from alignkit.models.loading import Loaded, load_config
from alignkit.models.rope import RopePlan, read_rope, rope_faults
from alignkit.models.rope.live import change_rope
from alignkit.models.saving import save_model
from alignkit.runs.digests import file_digest
from alignkit.runs.directory import RunDirectory
from alignkit.runs.outcome import Outcome
from alignkit.stages.extend_context import evaluation, memory, windows
from alignkit.stages.extend_context.curriculum import Curriculum, InOrder, curriculum_collator
from alignkit.stages.extend_context.recipe import Recipe
from alignkit.stages.extend_context.schedule import WindowSchedule
from alignkit.stages.extend_context.searching import with_factors
from alignkit.stages.extend_context.trained import also_trained
from alignkit.stages.sft.run import supervised_trainer
from alignkit.training import precision
from alignkit.training.allocator import return_large_blocks
from alignkit.training.loop import TrainerParts
from alignkit.training.memory import free_bytes
from alignkit.training.rows import Prepared as AnyPrepared
from alignkit.training.rows import TrainingRows
from alignkit.training.signals import StopRequest
from alignkit.training.stage import GradientStage
from alignkit.training.tiling import tile_tokenwise
from alignkit.training.trainer import GuardedTrainer

NO_TRAINING = {"steps": 0, "rows": 0}
"""What stands for a training that there was none of."""

LONG_ROW = 2048
"""Tokens from which a row's tensors are large enough that holes between them matter."""


class ExtendContextStage(GradientStage):
    """Frequencies for a longer window, and the training that makes the model use them."""

    recipe: Recipe
    curriculum: Curriculum
    step: memory.Step
    plans: list[RopePlan]
    tokens_at_once: Mapping[str, int] = MappingProxyType({"cpu": 4096})

    def __init__(self, recipe: Recipe, run: RunDirectory) -> None:
        if not recipe.context.train:  # the recipe's adapter, too, is how it would be trained
            recipe.adapter = dataclasses.replace(recipe.adapter, kind="none")
        super().__init__(recipe, run)
        self.context = recipe.context
        self.offload = False
        self.config = load_config(recipe.model, self.source)
        faults = list(rope_faults(self.config, self.context, self.context.length))
        if faults:
            raise RequestError(faults)
        self.before = read_rope(self.config, self.context.original).present
        if self.context.train:
            self.step = self._require_room()

    # --- rows ----------------------------------------------------------------------------------------------------

    def reads(self) -> int | None:
        """As many as the longest window has: the model is to learn it."""
        return None

    def prepare(self, tokenizer: Any) -> Prepared:
        recipe = self.recipe
        recipe.data.max_length = self.context.length  # windows cut them further; held-out rows stay as long as that
        if not recipe.data.name and not recipe.data.sources:
            prepared = Prepared([], [], Report())
        else:
            prepared = prepare(recipe.data, tokenizer, digest_file=file_digest, held_out_rows=self.held_out_rows)
        self.material = evaluation.material_of(recipe.evaluation.suite, tokenizer, prepared.held_out)
        self.measured_at = evaluation.lengths_of(recipe.evaluation.suite, self.before, self.context.length)
        if self.context.train:
            said = windows.require_long(recipe, prepared.lengths, self.before)
            self.curriculum = windows.curriculum(recipe, prepared.train, prepared.lengths, self.before)
            prepared.report.notes += [*said, *windows.describe(self.curriculum.parts)]
        return prepared

    def _require_room(self) -> memory.Step:
        """The step on the longest packed row, by the estimate, before any row is read. Raises RequestError where that
        does not fit."""
        device = choose_device()
        half = choose_dtype(self.recipe.model, device).itemsize == 2
        return memory.require_room(
            self.recipe,
            memory.Shape.of(self.config),
            max(window.room for window in windows.windows(self.recipe, self.before)),
            gpu=device.type == "cuda",
            half=half,
            free=free_bytes(str(device)),
        )

    def longest(self, prepared: AnyPrepared, layout: str) -> int:
        return max(part.window.room for part in self.curriculum.parts) if self.context.train else 0

    def collator(self, layout: str, tokenizer: Any) -> Collator:
        context = self.context
        chunks = context.chunks if context.positions == "pose" else None
        return curriculum_collator(self.curriculum, joined=context.documents == "joined", chunks=chunks)

    def rows(self, prepared: AnyPrepared, micro: int) -> TrainingRows:
        return self.curriculum

    def order(self, rows: TrainingRows) -> InOrder:
        return InOrder(self.curriculum.lengths, seed=self.recipe.seed, batch=self.recipe.batch.size)

    def layout(self, loaded: Loaded, prepared: AnyPrepared) -> str:
        """Rows are never padded here: a padded batch needs a mask of T by T."""
        wanted = dataclasses.replace(self.recipe, data=dataclasses.replace(self.recipe.data, packing="best-fit"))
        try:
            return precision.layout(wanted, loaded)
        except RequestError as refused:
            way_out = (
                "Stretch it without training (context.train=false), leave model.attention as it is where you set it, "
                "or take another model."
            )
            faults = [dataclasses.replace(fault, where="model", instead=way_out) for fault in refused.faults]
            raise RequestError(faults) from None

    # --- the model -----------------------------------------------------------------------------------------------

    def begin(self, loaded: Loaded, prepared: AnyPrepared) -> None:
        """The new frequencies, into the model that stands: until here it was scored as it was."""
        context, recipe = self.context, self.recipe
        rows = prepared.train if context.train else prepared.held_out
        options = with_factors(context, self.config, context.length, rows, loaded.model, self.run, seed=recipe.seed)
        self.plans = windows.plans(recipe, options, self.config)
        loaded.rope = self.plans[-1]
        change_rope(loaded.model, loaded.rope)
        for sentence in (loaded.rope.said, *loaded.rope.notes):
            log.say(sentence)
        self.run.mark("rope", loaded.rope.as_dict())
        recipe.adapter.modules_to_save = also_trained(loaded.model, recipe)

    def _resolve(self, loaded: Loaded, prepared: AnyPrepared) -> dict[str, Any]:
        resolved = super()._resolve(loaded, prepared)
        gpu = loaded.device.type == "cuda"
        shape = memory.Shape.of(self.config)
        self.offload = memory.offloads(self.recipe, self.step, shape, free_bytes(str(loaded.device)), gpu=gpu)
        return resolved

    def _train(self, prepared: AnyPrepared, stop: StopRequest) -> Loaded:
        if self.context.train:
            return super()._train(prepared, stop)
        loaded = self._load()
        self._evaluate("evaluated_before", loaded.model, loaded.tokenizer, prepared)
        self.begin(loaded, prepared)
        save_model(loaded.model, loaded.tokenizer, self.run.model_path)
        self.run.mark("resolved", {"dtype": str(loaded.dtype).removeprefix("torch."), **loaded.resolved})
        self.run.mark("trained", dict(NO_TRAINING))
        return loaded

    def build_trainer(self, parts: TrainerParts) -> GuardedTrainer:
        tile = memory.tile_of(self.recipe, self.step.tokens)
        if parts.loaded.device.type == "cpu" and self.step.tokens > LONG_ROW:
            return_large_blocks()
        if tile is not None:
            log.detail(f"{tile_tokenwise(parts.loaded.model, tile)} MLPs and norms take {tile} tokens at once")
        parts.arguments["max_steps"] = self.curriculum.steps
        return supervised_trainer(parts, activation_offloading=self.offload)

    def callbacks(self, prepared: AnyPrepared) -> list[Any]:
        return [WindowSchedule(self.curriculum, self.plans)]

    # --- scores --------------------------------------------------------------------------------------------------

    def scored_on(self, prepared: AnyPrepared) -> str | None:
        if not self.recipe.evaluation.rows:
            return None
        return f"lengths from {self.measured_at[0]:,} to {self.measured_at[-1]:,} tokens"

    def score(self, model: Any, tokenizer: Any, prepared: AnyPrepared, when: str) -> dict[str, Any]:
        suite = self.recipe.evaluation.suite
        found = long_context(model, tokenizer, suite, self.material, lengths=self.measured_at, when=when)
        if when == "after":
            before = (self.run.read_mark("evaluated_before") or {}).get("scores")
            known = LongScores.from_dict(before) if before else None
            found = evaluation.told(known, found, self.before, self.run.path)
        return found.as_dict()

    def headline(self, before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any] | None:
        return headline(*(LongScores.from_dict(found) if found else None for found in (before, after)))

    def watched(self, model: Any, tokenizer: Any, prepared: AnyPrepared, rows: int | None) -> Mapping[str, float]:
        held_out = evaluation.ends_of(prepared.held_out[:rows])
        return {"loss": held_out_loss(model, held_out, pad_id=pad_id(tokenizer))["loss"]}

    def findings(self) -> dict[str, Any]:
        return {"rope": self.run.read_mark("rope")}


def run(recipe: Recipe, run: RunDirectory) -> Outcome:
    """Run the stage in its directory; called by the journey."""
    return ExtendContextStage(recipe, run).execute()
