"""Use a model for reading only, whatever it was doing before, and leave it as it was."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from alignkit.models.rope.reading import longest_input


@contextmanager
def reading(model: Any) -> Iterator[None]:
    """Dropout off and no gradients while the context lasts; afterwards each module trains or rests as before.

    The flag is kept per module: a frozen part that a trainer had put to rest must not wake up.
    ``no_grad`` and not ``inference_mode``: a buffer that a model makes on its first forward pass (rotary
    tables) is later used in training, where an inference tensor would raise.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def bare(model: Any) -> Any:
    """The causal language model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def forward_arguments(model: Any) -> frozenset[str]:
    """Names that the model's own forward takes. Some families take no ``position_ids`` (Bloom, Mamba)."""
    return frozenset(inspect.signature(type(bare(model)).forward).parameters)


def context_length(model: Any) -> int | None:
    """Positions that the model can tell apart, from its config; None where it knows no limit."""
    config = bare(model).config
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    if getattr(config.get_text_config(), "rope_parameters", None):
        length = longest_input(config) or length  # dynamic NTK takes more than it has positions
    return length if isinstance(length, int) and length > 0 else None
