"""Options of the sft stage: supervised fine-tuning on conversations, prompt and completion, or raw text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from annotated_types import Gt

from alignkit.config.recipe import GradientRecipe


@dataclass(kw_only=True)
class SftOptions:
    """What is peculiar to supervised fine-tuning."""

    loss: Literal["nll", "dft"] = "nll"
    """nll: cross entropy; dft: dynamic fine-tuning, weighted by the token's probability (Wu et al. 2025)."""
    neftune_alpha: Annotated[float, Gt(0)] | None = None
    """NEFTune: uniform noise of this scale on the embeddings while training (Jain et al. 2023: 5 to 15); null: none."""


@dataclass(kw_only=True)
class Recipe(GradientRecipe):
    """Supervised fine-tuning: the whole model, or an adapter on it."""

    semantics: ClassVar[int] = 1
    trl_config: ClassVar[str | None] = "SFTConfig"
    trl_owned: ClassVar[dict[str, str]] = {"loss_type": "sft.loss", "neftune_noise_alpha": "sft.neftune_alpha"}

    sft: SftOptions = field(default_factory=SftOptions)
