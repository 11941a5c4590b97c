"""Options of the extract-lora stage: a fine-tune and its base become an adapter, without training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from alignkit.config.recipe import StageRecipe
from alignkit.config.sections import Model
from alignkit.errors import Fault


@dataclass(kw_only=True)
class ExtractOptions:
    """What is peculiar to extraction."""

    base: Model
    """The model that the other was fine-tuned from, and that the adapter is for. Short form: base=…"""
    rank: Annotated[int, Ge(1)] = 32
    """Rank of the update of each matrix; with `energy` the largest that a matrix gets."""
    energy: Annotated[float, Gt(0), Le(1)] | None = None
    """Share of each matrix's change (its squared Frobenius norm) to keep: each gets the smallest rank that does;
    null: all get `rank`."""
    targets: str | list[str] = "all-linear"
    """Which matrices become factors: `all-linear` (the head too, where it is not tied), a list of module names, or one
    regular expression over full names. Changes of the others are treated as `others` says."""
    others: Literal["save", "refuse", "leave"] = "save"
    """Changed tensors that are no target (norms, biases, embeddings): saved whole beside the factors (of an embedding
    only the rows that changed, where these are few), or a reason to refuse, or left as they are in the base."""
    iterations: Annotated[int, Ge(0)] = 4
    """Power iterations of the randomised SVD (Halko et al. 2011): more come closer to the best approximation."""


@dataclass(kw_only=True)
class Recipe(StageRecipe):
    """The difference between a fine-tune (`model`) and its base as a LoRA adapter."""

    semantics: ClassVar[int] = 1

    model: Model
    extract: ExtractOptions

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        plain = Model(name="")
        for where, section in (("model", self.model), ("extract.base", self.extract.base)):
            for name in ("dtype", "attention", "allow_pickle"):
                if getattr(section, name) != getattr(plain, name):
                    yield Fault(
                        where=f"{where}.{name}",
                        what="extraction reads safetensors as they are stored, and runs no model",
                        instead="Leave it out.",
                    )
        if not self.extract.targets:
            yield Fault(
                where="extract.targets",
                what="is empty",
                instead="Write all-linear, a list of module names, or a regular expression.",
            )
