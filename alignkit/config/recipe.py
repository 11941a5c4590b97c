"""What a recipe is: the base class of every stage's ``Recipe``.

A stage is a folder ``alignkit/stages/NAME/`` (dashes in the stage's name become underscores) whose
``recipe.py`` defines one dataclass ``Recipe`` on one of these bases, and whose ``run.py`` defines
``run(recipe, run) -> Outcome``. Nothing registers it: the ``stage:`` line of a YAML names the folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from alignkit.config.launching import ONE, SEVERAL, launch_faults
from alignkit.config.sections import (
    OPERATIONAL,
    Adapter,
    Batch,
    Checkpoint,
    Data,
    Evaluation,
    Launch,
    Memory,
    Model,
    Optimizer,
    Quantization,
    Run,
    Schedule,
)
from alignkit.errors import Fault

Kind: TypeAlias = Literal["demonstration", "preference", "feedback", "scored", "ranking", "prompt", "labelled"]
"""What a row is good for: to imitate, to compare, to judge, to rate, to rank, to answer, to classify."""


@dataclass(kw_only=True)
class StageRecipe:
    """What every stage has."""

    semantics: ClassVar[int] = 1
    """Raised when the stage's maths changes: older runs are then not taken for the same."""
    trl_config: ClassVar[str | None] = None
    """Name of the TRL config class that `trl:` is checked against and passed to; None: no `trl:`."""
    trl_owned: ClassVar[dict[str, str]] = {}
    """Options of that class that this stage sets from keys of its own: TRL's name to ours."""

    engines: ClassVar[tuple[str, ...]] = ONE
    """Values of `launch.engine` that the stage runs on."""

    stage: str
    """Folder under alignkit/stages that runs this recipe."""
    seed: int = 42
    """Seed of everything random: data order, initialisation, dropout, sampling."""
    run: Run = field(default_factory=Run, metadata=OPERATIONAL)
    launch: Launch = field(default_factory=Launch, metadata=OPERATIONAL)

    @property
    def wants(self) -> Kind:
        """The kind of rows that the stage learns from; a data set of another kind is converted or refused.

        A stage says its own, and may decide it by its options (the loss of the dpo stage does).
        """
        return "demonstration"

    def wants_at(self, where: str) -> Kind:
        """The same for the data section at a dotted place, where a stage has several of different kinds."""
        return self.wants

    @classmethod
    def imported(cls, tree: dict[str, Any]) -> tuple[dict[str, Any], str] | None:
        """Values in another program's words that the recipe names, as a tree of our keys, and the file they came from.

        They lie below the recipe's own values. None: it names none. Raises RequestError for what cannot be said in
        our keys.
        """
        return None

    def files_read(self) -> dict[str, list[Path]]:
        """Files beside models and data whose contents decide the result, by the key that names them."""
        return {}

    def faults(self) -> Iterator[Fault]:
        """Combinations of values that cannot work. Stages extend it; no file is read here."""
        yield from launch_faults(self)

    def why_alone(self) -> str | None:
        """What in these values keeps the stage on one process, as the start of a sentence; None: nothing."""
        return None


@dataclass(kw_only=True)
class GradientRecipe(StageRecipe):
    """What every stage that trains weights has."""

    engines: ClassVar[tuple[str, ...]] = SEVERAL

    model: Model
    data: Data
    adapter: Adapter = field(default_factory=Adapter)
    quantization: Quantization = field(default_factory=Quantization)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    batch: Batch = field(default_factory=Batch)
    memory: Memory = field(default_factory=Memory, metadata=OPERATIONAL)
    evaluation: Evaluation = field(default_factory=Evaluation, metadata=OPERATIONAL)
    checkpoint: Checkpoint = field(default_factory=Checkpoint, metadata=OPERATIONAL)
    save: Literal["auto", "adapter", "merged", "both"] = field(default="auto", metadata=OPERATIONAL)
    """auto: what was trained (the adapter, or the whole model); merged: adapter folded into the base; both."""
    report_to: list[Literal["tensorboard", "trackio", "wandb", "mlflow"]] | Literal["none"] = field(
        default="none", metadata=OPERATIONAL
    )
    """Experiment trackers beside metrics.jsonl; each is an extra to install."""
    trl: dict[str, Any] = field(default_factory=dict)
    """Options passed straight to TRL's config class of the stage."""

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        processes = self.launch.processes
        if processes != "auto" and self.batch.size < processes:
            yield Fault(
                where="batch.size",
                what=f"{self.batch.size} rows a step do not go round {processes} processes",
                instead=f"Write batch.size={processes} or more, or fewer launch.processes.",
            )
        if self.launch.engine in ("fsdp", "deepspeed") and self.quantization.kind != "none":
            yield Fault(
                where="launch.engine",
                what=f"{self.launch.engine} splits weights, and {self.quantization.kind} ones cannot be split",
                instead="Write launch=ddp, or quantization=none.",
            )
        if self.batch.micro != "auto" and self.batch.size % self.batch.micro:
            yield Fault(
                where="batch.micro",
                what=f"{self.batch.micro} does not divide batch.size={self.batch.size}",
                instead=f"Write a divisor of {self.batch.size}, or batch.micro=auto.",
            )
        if self.adapter.kind == "none":
            default = Adapter()
            for name in (one.name for one in fields(Adapter)):
                if name != "kind" and getattr(self.adapter, name) != getattr(default, name):
                    yield Fault(
                        where=f"adapter.{name}",
                        what="is set, and there is no adapter: all weights would be trained",
                        instead="Add adapter=lora, or leave it out.",
                    )
            if self.quantization.kind != "none":
                yield Fault(
                    where="quantization.kind",
                    what=f"{self.quantization.kind} weights are frozen: there is nothing to train without an adapter",
                    instead="Add adapter=lora, or write quantization=none.",
                )
            if self.save != "auto":
                yield Fault(
                    where="save",
                    what=f"save={self.save} needs an adapter, and adapter.kind is none",
                    instead="Write save=auto (the whole model is saved), or adapter=lora.",
                )
        elif self.adapter.lr_ratio != 1.0 and self.optimizer.name in ("adafactor", "sgd"):
            yield Fault(
                where="adapter.lr_ratio",
                what=f"LoRA+ is built on Adam, and optimizer.name is {self.optimizer.name}",
                instead="Write optimizer.name=adamw, or adapter.lr_ratio=1.",
            )
        if self.schedule.patience is not None and not self.data.holdout:
            yield Fault(
                where="schedule.patience",
                what="early stopping needs held-out rows, and data.holdout is 0",
                instead="Set data.holdout, or schedule.patience=null.",
            )
