"""The lora stage: supervised fine-tuning on the shared path, of an adapter (see sft/run.py and models/adapters.py)."""

from __future__ import annotations

from alignkit.runs.directory import RunDirectory
from alignkit.runs.outcome import Outcome
from alignkit.stages.lora.recipe import Recipe
from alignkit.stages.sft.run import SupervisedStage


def run(recipe: Recipe, run: RunDirectory) -> Outcome:
    """Run the stage in its directory; called by the journey."""
    return SupervisedStage(recipe, run).execute()
