"""The sft stage: cross entropy on the assistant's tokens, through TRL's SFTTrainer."""

from __future__ import annotations

from typing import Any

from alignkit.data.prepare import Prepared, prepare
from alignkit.errors import Fault, RequestError
from alignkit.runs.digests import file_digest
from alignkit.runs.directory import RunDirectory
from alignkit.runs.outcome import Outcome
from alignkit.stages.sft.recipe import Recipe
from alignkit.training.loop import TrainerParts
from alignkit.training.stage import GradientStage
from alignkit.training.trainer import GuardedTrainer


class SupervisedStage(GradientStage):
    """Supervised fine-tuning of the whole model or of an adapter; the lora stage is this one too."""

    recipe: Recipe

    def prepare(self, tokenizer: Any) -> Prepared:
        data = self.recipe.data
        prepared = prepare(data, tokenizer, digest_file=file_digest, held_out_rows=self.held_out_rows)
        if self.recipe.sft.loss == "dft" and prepared.weighted:
            raise RequestError(
                Fault(
                    where="sft.loss",
                    what="dft sets the weight of each token itself, and rows of the data have loss weights too",
                    instead="Write sft.loss=nll, or take the weights out of the rows.",
                )
            )
        return prepared

    def build_trainer(self, parts: TrainerParts) -> GuardedTrainer:
        options = self.recipe.sft
        return supervised_trainer(parts, loss_type=options.loss, neftune_noise_alpha=options.neftune_alpha)


def supervised_trainer(parts: TrainerParts, **options: Any) -> GuardedTrainer:
    """TRL's SFTTrainer on rows that come tokenized, masked and cut from our data room. ``options``: of SFTConfig."""
    from trl import SFTConfig, SFTTrainer

    class SupervisedTrainer(GuardedTrainer, SFTTrainer):  # type: ignore[misc]
        pass

    config = SFTConfig(**{**parts.arguments, **options}, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None)
    return SupervisedTrainer(
        model=parts.loaded.model,
        args=config,
        processing_class=parts.loaded.tokenizer,
        train_dataset=parts.sample,
        data_collator=parts.collate,
        callbacks=parts.callbacks,
        optimizers=(parts.optimizer, None),
    )


def run(recipe: Recipe, run: RunDirectory) -> Outcome:
    """Run the stage in its directory; called by the journey."""
    return SupervisedStage(recipe, run).execute()
