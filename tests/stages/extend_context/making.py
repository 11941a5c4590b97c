"""A tiny model with a window of 64 tokens, and documents that are longer."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import alignkit
from tests.stages.runs import words
from tests.tiny import save_tiny

WINDOW = 64


def tiny(directory: Path, **changes: Any) -> Path:
    return save_tiny(directory, **{"max_position_embeddings": WINDOW, **changes})


def documents(path: Path, *, shortest: int = 60, longest: int = 400, count: int = 40, seed: int = 0) -> Path:
    """Texts of these many tokens, in a language of few words, so that there is something to learn."""
    rng = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            length = rng.randint(shortest, longest)
            text = ""
            while len(text) < length:
                text += rng.choice(["to be ", "or not ", "that is ", "the question. "])
            file.write(json.dumps({"text": text[:length]}) + "\n")
    return path


def train(model: Path, data: Path | None, root: Path, recipe: str = "extend-context", **changes: Any) -> dict[str, Any]:
    """A short run; `a__b=1` in `changes` stands for `a.b=1`."""
    values: dict[str, Any] = {
        "context__length": 256,
        "adapter__kind": "none",
        "context__also_train": "[]",
        "batch__size": 2,
        "optimizer__learning_rate": "5e-3",
        "schedule__max_steps": 4,
        "schedule__warmup": 0,
        **changes,
    }
    said = words(model, data or Path("none"), root, **values)
    left_out = ("data.max_length",) if data is not None else ("data",)
    return alignkit.train(recipe, [word for word in said if not word.startswith(left_out)])
