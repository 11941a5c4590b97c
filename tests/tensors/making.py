"""Checkpoints made with the safetensors library: the oracle of this room."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from alignkit.tensors.checkpoint import Checkpoint
from alignkit.tensors.jobs import Values

TORCH = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def made_up(shapes: dict[str, tuple[str, tuple[int, ...]]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tensors: name to dtype and shape."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, (dtype, shape) in shapes.items():
        if dtype in ("F64", "F32", "F16", "BF16"):
            made[name] = torch.randn(shape, generator=generator).to(TORCH[dtype])
        else:
            made[name] = torch.randint(0, 2, shape, generator=generator).to(TORCH[dtype])
    return made


def save(place: Path, *shards: dict[str, torch.Tensor]) -> Path:
    """A checkpoint of one or several files, with its index."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text('{"model_type": "llama"}')
    if len(shards) == 1:
        save_file(shards[0], place / "model.safetensors", metadata={"format": "pt"})
        return place
    table = {}
    for number, tensors in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(tensors, place / file, metadata={"format": "pt"})
        table |= dict.fromkeys(tensors, file)
    (place / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return place


def write_raw_file(path: Path, entries: Any, data: bytes = b"") -> None:
    """A safetensors file with any header, good or bad."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def whole(checkpoint: Checkpoint, name: str) -> Values:
    """All elements of a tensor."""
    return checkpoint.read(name, 0, checkpoint.tensors[name].count)


def flat(tensor: torch.Tensor) -> Values:
    """A torch tensor as (n,) float32."""
    return tensor.float().flatten().numpy().astype(np.float32)
