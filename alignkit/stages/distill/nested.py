"""Trainings inside a distillation: the teacher is corrected first, and a baseline learns the same rows without one.

Each is a run of the sft stage in a directory of its own below the run's, with its own marks and checkpoints, so that
it goes on where it was cut off.
"""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignkit.config.sections import Adapter, Evaluation, Model, Quantization
from alignkit.console import log
from alignkit.runs.directory import RunDirectory
from alignkit.stages.distill.recipe import Recipe
from alignkit.stages.sft.recipe import Recipe as SftRecipe
from alignkit.stages.sft.run import SupervisedStage

TEACHER = "teacher"
BASELINE = "baseline"


def plain(section: Model) -> Model:
    """What every model section has, of one that has more."""
    return Model(
        name=section.name,
        installed_file=section.installed_file,
        revision=section.revision,
        dtype=section.dtype,
        attention=section.attention,
        trust_remote_code=section.trust_remote_code,
        allow_pickle=section.allow_pickle,
    )


def corrected_teacher(recipe: Recipe, run: RunDirectory) -> Path:
    """The teacher after some steps of plain fine-tuning on the data, as a directory; at once where it is done."""
    section, correction = recipe.distill.teacher, recipe.distill.correct_teacher
    assert section is not None
    inner = _inside(run, TEACHER)
    if inner.read_mark("saved") is None:
        log.say(f"correcting the teacher on the data first: {correction.steps} steps")
        asked = replace(
            _supervised(recipe),
            model=plain(section),
            adapter=Adapter(),
            quantization=Quantization(),
            optimizer=replace(recipe.optimizer, learning_rate=correction.learning_rate),
            schedule=replace(recipe.schedule, max_steps=correction.steps, patience=None),
            evaluation=Evaluation(rows=0),
            save="auto",
        )
        SupervisedStage(asked, inner).execute()
        gc.collect()
    return inner.model_path


def baseline(recipe: Recipe, run: RunDirectory, student: Model) -> dict[str, Any]:
    """The same student after plain fine-tuning on the same rows in the same order: `training` and `after` of its
    metrics. ``student``: what the distillation starts from."""
    inner = _inside(run, BASELINE)
    if inner.read_mark("trained") is None:
        log.say("the baseline: plain supervised fine-tuning of the same student on the same rows")
    asked = replace(_supervised(recipe), model=student)
    outcome = SupervisedStage(asked, inner).execute()
    gc.collect()
    return {"training": outcome.metrics["training"], "after": outcome.metrics["after"], "path": str(outcome.result)}


def _inside(run: RunDirectory, name: str) -> RunDirectory:
    return RunDirectory(path=run.path / name, key=run.key, stage="sft", created=run.created)


def _supervised(recipe: Recipe) -> SftRecipe:
    """The sft recipe with this one's values."""
    return SftRecipe(
        stage="sft",
        seed=recipe.seed,
        run=recipe.run,
        model=recipe.model,
        data=replace(recipe.data),
        adapter=recipe.adapter,
        quantization=recipe.quantization,
        optimizer=recipe.optimizer,
        schedule=recipe.schedule,
        batch=recipe.batch,
        memory=recipe.memory,
        evaluation=recipe.evaluation,
        checkpoint=recipe.checkpoint,
        save=recipe.save,
        trl=recipe.trl,
    )
