"""Options of the extend-context stage: a longer window by another rotary embedding, trained or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt

from alignkit.config.recipe import GradientRecipe
from alignkit.config.rope import RopeOptions
from alignkit.config.sections import BY_CONTENT, OPERATIONAL, Data, Evaluation, Memory
from alignkit.errors import Fault
from alignkit.evaluation.long_context.recipe import Suite


@dataclass(kw_only=True)
class LengthStage:
    """One part of the training: a window, and how long it is trained."""

    length: Annotated[int, Ge(16)]
    """Window in tokens: rows are packed to it, and the frequencies are those for it."""
    theta: Annotated[float, Gt(1)] | None = None
    """abf: the base frequency of this part; null: context.theta."""
    steps: Annotated[int, Ge(1)] | None = None
    """Optimizer steps; null: as many as schedule.epochs needs."""


@dataclass(kw_only=True)
class ContextOptions(RopeOptions):
    """The window to reach, and how the model learns to use it."""

    length: Annotated[int, Ge(16)]
    """Window to reach, in tokens."""
    train: bool = True
    """false: only the configuration changes, and the evaluation shows what that costs."""
    stages: list[LengthStage] = field(default_factory=list)
    """Windows trained one after the other, each with its own frequencies; the last is context.length. Empty: that one
    only. [{length: 16384, steps: 200}, {length: 32768, steps: 100}]"""
    documents: Literal["isolated", "joined"] = "isolated"
    """isolated: the documents of a packed row do not see each other; joined: they are one long text (cheap long rows
    where there are few long documents)."""
    positions: Literal["full", "pose"] = "full"
    """pose: rows of the old window whose positions skip ahead, up to the new one (Zhu et al. 2023, "PoSE", section
    3.2): costs the memory and time of the old window."""
    chunks: Annotated[int, Ge(2)] = 2
    """pose: pieces of a document that keep their distances inside; the paper has 2."""
    tokens: Annotated[int, Ge(16)] | None = None
    """Tokens that rows are packed to; null: the window of the stage (with pose: the old one)."""
    also_train: list[Literal["embeddings", "norms"]] = field(default_factory=list)
    """Beside an adapter, trained in full (Chen et al. 2023, "LongLoRA", section 3.3: without them LoRA does not reach
    full fine-tuning at long lengths)."""


@dataclass(kw_only=True)
class ContextMemory(Memory):
    """Levers that trade time for memory and leave the result as it is."""

    offload: bool | Literal["auto"] = "auto"
    """Keep the layers' inputs in the host's memory until the backward pass; GPUs only, with gradient checkpointing.
    auto: where they would not fit."""
    mlp_tile: Annotated[int, Ge(16)] | Literal["auto", "off"] = "auto"
    """Tokens that an MLP takes at once, computed again in the backward pass; auto: 2048, where rows are longer."""


@dataclass(kw_only=True)
class LongData(Data):
    """Long documents, and short rows beside them: data.sources mixes both."""

    name: str = field(default="", metadata=BY_CONTENT)
    """A name from recipes/data/, a path, a glob, a hub name, or `generated:NAME`; may be left out where nothing is
    trained. Short form: data=…"""
    overlength: Literal["drop", "truncate", "split", "error"] = "split"
    """What happens to a row that is longer than the window, always counted and reported: split cuts raw text into
    pieces and loses nothing (rows of another kind in a mixture are dropped)."""
    packing: bool | Literal["best-fit"] = "best-fit"
    """best-fit: rows are put into packed rows of at most context.tokens tokens, none cut, and batch.size counts those;
    false: each row is one of its own."""


@dataclass(kw_only=True)
class ContextEvaluation(Evaluation):
    """Perplexity and retrieval by length, on the model as it was and as it is."""

    suite: Suite = field(default_factory=Suite)
    """What is measured (`alignkit eval MODEL suite=long-context` measures the same). Its text, where none is named: the
    held-out rows. Its lengths: half of the old window, and doubled up to twice the new one."""

    def decides(self) -> dict[str, Any]:
        return {"rows": self.rows, "suite": asdict(self.suite)}


@dataclass(kw_only=True)
class Recipe(GradientRecipe):
    """A model that reads more: stretched frequencies, and training on long rows."""

    semantics: ClassVar[int] = 1
    trl_config: ClassVar[str | None] = "SFTConfig"
    trl_owned: ClassVar[dict[str, str]] = {"activation_offloading": "memory.offload"}

    context: ContextOptions
    data: LongData = field(default_factory=LongData)
    evaluation: ContextEvaluation = field(default_factory=ContextEvaluation, metadata=OPERATIONAL)
    memory: ContextMemory = field(default_factory=ContextMemory, metadata=OPERATIONAL)

    def parts(self) -> list[LengthStage]:
        """The windows that are trained, in order."""
        return self.context.stages or [
            LengthStage(length=self.context.length, theta=self.context.theta, steps=self.schedule.max_steps)
        ]

    def faults(self) -> Iterator[Fault]:
        from alignkit.stages.extend_context.recipe_faults import faults

        yield from super().faults()
        yield from faults(self)
