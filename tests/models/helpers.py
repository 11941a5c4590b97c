"""What several tests of this room need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from alignkit.config.sections import Model, Quantization
from alignkit.models.loading import Loaded, load

TEXT = "the quick brown fox jumps over the lazy dog"


def load_tiny(path: Path, quantization: Quantization | None = None, dtype: Any = "fp32") -> Loaded:
    return load(Model(name=str(path), dtype=dtype), quantization, device="cpu")


def logits_of(loaded: Any, tokenizer: Any = None) -> torch.Tensor:
    """Logits of a fixed text, fp32, in eval mode."""
    model = getattr(loaded, "model", None) if isinstance(loaded, Loaded) else loaded
    tokenizer = loaded.tokenizer if isinstance(loaded, Loaded) else tokenizer
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    assert model is not None
    was_training = model.training
    model.eval()
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids, use_cache=False).logits.float()
    model.train(was_training)
    return found


def train_a_little(model: Any, tokenizer: Any, steps: int = 3, learning_rate: float = 1e-2) -> None:
    """A few steps of AdamW on one text."""
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    for _ in range(steps):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
