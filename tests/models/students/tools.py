"""What several tests of made students need: tiny teachers whose weights are large enough to matter, rows, sections."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from alignkit.models.loading import Loaded
from alignkit.models.locating import Source
from alignkit.models.students.make import Made, make_student
from alignkit.models.students.recipe import Student
from tests.tiny import build_model, build_tokenizer

GEMMA = {"head_dim": 8, "tie_word_embeddings": True}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied, biases": ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", {"sliding_window": 6}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 8}),
    "gemma": ("gemma", GEMMA),
    "gemma, untied": ("gemma", {"head_dim": 8}),
    "gemma2": ("gemma2", {**GEMMA, "sliding_window": 6}),
    "gemma3": ("gemma3_text", {**GEMMA, "sliding_window": 6}),
}
"""Families that can be made narrower in every way."""


@dataclass
class CalibrationTokens:
    """A calibration row."""

    input_ids: list[int]
    labels: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.labels = self.labels or list(self.input_ids)


def rows(count: int = 4, length: int = 12) -> list[CalibrationTokens]:
    """Random tokens, every row of another length."""
    generator = torch.Generator().manual_seed(1)
    return [
        CalibrationTokens(torch.randint(3, 259, (length + number,), generator=generator).tolist())
        for number in range(count)
    ]


def teacher(kind: str = "llama", *, layers: int = 4, **changes: Any) -> Loaded:
    """A teacher whose layers do something: initialised ten times as wide as for training, norms and biases random."""
    model = build_model(kind, layers=layers, **{"initializer_range": 0.2, **changes}).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return Loaded(
        model=model,
        tokenizer=build_tokenizer(),
        source=Source(kind="directory", path=Path("teacher"), hub_name=None, revision=None, said=""),
        dtype=torch.float32,
        attention="sdpa",
        device=torch.device("cpu"),
        quantized=False,
    )


def made(from_teacher: Loaded, seed: int = 0, **options: Any) -> Made:
    """The student that these options of the section ask for."""
    return make_student(from_teacher, Student(**options), rows(), seed=seed)


def logits(model: Any, length: int = 20) -> torch.Tensor:
    """(1, T, V) of the same random tokens each time."""
    ids = torch.randint(3, 259, (1, length), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return found
