"""One training loop from a checkpoint, or from nothing, to the last step: TRL's trainer with our guards around it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alignkit import ranks
from alignkit.config.recipe import GradientRecipe
from alignkit.console import log
from alignkit.data.batching import Collator, RowOrder
from alignkit.errors import Interrupted, RunError
from alignkit.models.loading import Loaded
from alignkit.runs.directory import RunDirectory
from alignkit.training import checkpoints
from alignkit.training.arguments import trl_arguments
from alignkit.training.head import install_scoring_head
from alignkit.training.loraplus import loraplus_optimizer
from alignkit.training.memory import Fit
from alignkit.training.meter import Meter, peak_memory_bytes
from alignkit.training.progress import Progress
from alignkit.training.rows import Prepared, TrainingRows
from alignkit.training.signals import StopRequest
from alignkit.training.stopping import StopWhenAsked
from alignkit.training.trainer import GuardedTrainer
from alignkit.training.watch import HeldOutWatch


@dataclass(frozen=True, kw_only=True)
class TrainerParts:
    """What a stage builds its TRL trainer from."""

    loaded: Loaded
    prepared: Prepared
    arguments: dict[str, Any]
    """For the stage's TRL config class; the stage adds what is its own."""
    sample: Any
    """`datasets.Dataset` of one row, for the trainer's constructor; the loop puts the rows in its place."""
    collate: Collator
    layout: str
    """How rows lie in a batch, as the stage resolved it."""
    autocast: str | None
    """"bf16" or "fp16" where products are computed in another format than the weights'."""
    callbacks: list[Any]
    optimizer: Any | None
    """None: the trainer makes it from its arguments."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a stage says about its training; the loop is the same for all."""

    prepared: Prepared
    rows: TrainingRows
    order: RowOrder
    sample: Any
    collate: Collator
    layout: str
    autocast: str | None
    build_trainer: Callable[[TrainerParts], GuardedTrainer]
    watched: Callable[[Any, int | None], Mapping[str, float]]
    """Figures of a model on the first held-out rows; None: on all."""
    callbacks: list[Any]
    facts: Callable[[Mapping[str, Any]], list[str]]
    """What the progress line says of a step's figures."""
    best: Callable[[], Path | None] = lambda: None
    """Asked after the last step: the checkpoint whose weights the stage wants in place of the last ones."""


def train(
    recipe: GradientRecipe,
    run: RunDirectory,
    plan: Plan,
    loaded: Loaded,
    resolved: dict[str, Any],
    stop: StopRequest,
) -> dict[str, Any]:
    """Train ``loaded.model`` in place and return the figures of the training.

    Raises:
        Interrupted: a signal asked for the end; a checkpoint was saved.
        NumericsError: a loss or gradient was not finite.
    """
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    meter = Meter()
    progress = Progress(run, meter, plan.facts)
    watch = HeldOutWatch(recipe, run, meter, plan.watched, plan.facts)
    fit = Fit(resolved["micro"], resolved["gradient_checkpointing"])
    device = loaded.device.type
    routed = hasattr(loaded.model.config.get_text_config(), "output_router_logits")
    arguments = trl_arguments(recipe, run, device=device, autocast=plan.autocast, fit=fit, routed=routed)
    config = loaded.model.config
    caches = getattr(config, "use_cache", None)
    adapters_before = {
        name: parameter.detach().clone()
        for name, parameter in loaded.model.named_parameters()
        if loaded.quantized and parameter.requires_grad
    }
    trainer = plan.build_trainer(
        TrainerParts(
            loaded=loaded,
            prepared=plan.prepared,
            arguments=arguments,
            sample=plan.sample,
            collate=plan.collate,
            layout=plan.layout,
            autocast=plan.autocast,
            # What a stage watches comes last: the line of a step stands in metrics.jsonl by then.
            callbacks=[watch, StopWhenAsked(stop, meter), progress, *plan.callbacks],
            optimizer=loraplus_optimizer(recipe, loaded.model, device),
        )
    )
    # TRL turns the adapters of a quantized base to bf16, where small updates round away: back to fp32, bit for bit.
    for name, parameter in loaded.model.named_parameters():
        if name in adapters_before:
            parameter.data = adapters_before[name]
    for theirs in (PrinterCallback, ProgressCallback):  # both write to stdout
        trainer.remove_callback(theirs)
    install_scoring_head(trainer.model, wanted=("log_probs", "entropy", "is_top1"))
    trainer.train_dataset = plan.rows
    trainer.prepare_guards(run, meter, keep=recipe.checkpoint.keep, row_order=plan.order, step_size=recipe.batch.size)
    if ranks.world() > 1 and recipe.launch.engine == "fsdp":
        trainer.sharding = recipe.launch
    watch.trainer = trainer
    with ranks.first_then_others():
        trainer.before_training()

    start, passed_over = ranks.from_first(lambda: checkpoints.newest_good(run.checkpoints))
    for sentence in passed_over:
        log.warn(sentence)
    if start is not None:
        log.say(f"resuming from step {checkpoints.step_of(start)} ({start.name})")
    run.truncate_metrics(checkpoints.step_of(start) if start else 0)
    if ranks.world() > 1:
        torch.manual_seed(recipe.seed + 1_000_003 * ranks.rank())  # each process drops out units of its own
    stop.finishing_step = True
    try:
        trainer.run(start)
    except pickle.UnpicklingError as error:  # torch reads nothing but tensors, whatever the digests say
        raise RunError(
            f"{start} holds something else than tensors, which could run code when it is opened, and is not read "
            f"({str(error).splitlines()[-1].strip()}). Take that folder away to go on from an earlier checkpoint, or "
            "begin anew with --fresh."
        ) from error
    finally:
        stop.finishing_step = False
        progress.close()
        if caches is not None:
            config.use_cache = caches  # gradient checkpointing turned it off, and it is saved with the model
    if stop.signum is not None:
        raise Interrupted(
            stop.signum,
            f"Stopped at step {trainer.state.global_step} of {trainer.state.max_steps}; its checkpoint is saved. "
            "The same command goes on from there.",
        )
    best = ranks.from_first(lambda: watch.best_checkpoint() if recipe.schedule.patience is not None else plan.best())
    if best is not None and checkpoints.step_of(best) != trainer.state.global_step:
        log.say(f"taking the weights of step {checkpoints.step_of(best)}, the best on held-out rows")
        trainer._load_from_checkpoint(str(best))
    losses = [m["loss"] for m in run.read_metrics() if "loss" in m]
    return {
        "steps": trainer.state.global_step,
        "rows": len(plan.prepared.train),
        "loss_first": losses[0] if losses else None,
        "loss_last": losses[-1] if losses else None,
        "tokens": meter.tokens,
        "labelled_tokens": meter.labelled,
        "seconds": round(meter.seconds, 2),
        "tokens_per_second": round(meter.tokens_per_second, 1),
        "labelled_per_second": round(meter.labelled_per_second, 1),
        "rows_per_second": round(meter.rows_per_second, 3),
        "peak_memory_bytes": peak_memory_bytes(),
        "resumed_from_step": checkpoints.step_of(start) if start else None,
    }
