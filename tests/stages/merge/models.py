"""Tiny checkpoints of several architectures for the merge tests, made once a session."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.tiny import build_model, build_tokenizer, save_tiny

MIXTRAL: dict[str, Any] = {"num_local_experts": 2, "num_experts_per_tok": 1}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-tied": {"tie_word_embeddings": True},
    "qwen2": {},
    "gpt2": {},
    "mixtral": MIXTRAL,
}


def save(directory: Path, kind: str, seed: int, **changes: Any) -> Path:
    """One tiny model with its tokenizer."""
    name = kind.partition("-")[0]
    return save_tiny(directory, name, seed=seed, **{**KINDS[kind], **changes})


def sharded(directory: Path, kind: str, seed: int) -> Path:
    """The same in several files with an index."""
    name = kind.partition("-")[0]
    build_model(name, seed=seed, **KINDS[kind]).save_pretrained(directory, max_shard_size="40KB")
    build_tokenizer().save_pretrained(directory)
    assert (directory / "model.safetensors.index.json").exists()
    return directory


def mixed(directory: Path, source: Path) -> Path:
    """A copy whose norms stay in fp32 and whose other tensors are in fp16."""
    shutil.copytree(source, directory)
    tensors = {
        name: value if value.ndim == 1 else value.astype(np.float16)
        for name, value in load_file(source / "model.safetensors").items()
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def tensors(directory: Path) -> dict[str, Any]:
    """Every tensor of a checkpoint, sharded or not, as torch sees it."""
    from safetensors.torch import load_file as load

    found: dict[str, Any] = {}
    for file in sorted(directory.glob("*.safetensors")):
        found |= load(file)
    return found


def change_config(directory: Path, **changes: Any) -> Path:
    """Write other values into config.json; None takes a key out."""
    file = directory / "config.json"
    config = json.loads(file.read_text())
    config |= changes
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return directory
