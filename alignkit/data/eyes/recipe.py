"""What `alignkit data …` can be told about the data and the model. No stages: they make no run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from alignkit.config.recipe import StageRecipe
from alignkit.config.sections import Data, Model
from alignkit.errors import Fault

Kind = Literal["demonstration", "preference", "feedback", "scored", "ranking", "prompt", "labelled"]


@dataclass(kw_only=True)
class LookRecipe(StageRecipe):
    """Which rows to look at, and through whose tokenizer."""

    stage: str = "data"
    data: Data
    model: Model | None = None
    """Whose tokenizer and chat template make tokens of the rows; null: text only."""
    kind: Kind | None = None
    """Show the rows as a stage takes them that wants this kind (demonstration: SFT); null: as what they are."""

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        if self.model is None and self.data.template is not None:
            yield Fault(
                where="data.template",
                what="without a model there is no tokenizer to install a template on",
                instead="Add model=….",
            )


@dataclass(kw_only=True)
class PreviewRecipe(LookRecipe):
    """Rows to show one by one."""

    n: Annotated[int, Ge(1)] = 3
    """How many rows."""


@dataclass(kw_only=True)
class ConvertRecipe(LookRecipe):
    """Rows to write to a file."""

    format: Literal["messages", "sharegpt", "alpaca", "prompt-completion", "preference", "feedback", "text"] = (
        "messages"
    )
    """How a row is written."""
