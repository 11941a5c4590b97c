"""Runs made in milliseconds: the files of a real one, without a model in them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignkit.runs.directory import RunDirectory, local_parent, open_run
from alignkit.runs.manifest import Manifest, Parent, publish


def key_of(word: str) -> str:
    return hashlib.sha256(word.encode()).hexdigest()


def begin(
    root: Path, word: str, *, stage: str = "lora", parents: Sequence[Parent] = (), fresh: bool = False
) -> RunDirectory:
    """A run that was opened and recorded what it is made from, and nothing more."""
    run = open_run(root, stage, key_of(word), fresh=fresh)
    run.record_parents(parents)
    run.write("recipe.yaml", f"stage: {stage}\n")
    return run


def checkpoint(run: RunDirectory, step: int = 10) -> RunDirectory:
    folder = run.checkpoints / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"x" * 1000)
    return run


def finish(run: RunDirectory, *, parents: Sequence[Parent] = (), **changes: Any) -> RunDirectory:
    """Write a result and publish it."""
    run.model_path.mkdir(exist_ok=True)
    (run.model_path / "model.safetensors").write_bytes(run.key.encode())
    run.append_metrics({"step": 1, "loss": 2.5})
    values: dict[str, Any] = {
        "stage": run.stage,
        "name": "quickstart",
        "key": run.key,
        "semantics": 1,
        "seed": 42,
        "parents": tuple(parents),
        "resolved": {"dtype": "bf16", "micro": 4},
        "metrics": {"before": {"loss": 2.5, "exact_match": 0.02}, "after": {"loss": 0.5, "exact_match": 0.83}},
        "versions": {"torch": "2.13.0"},
    }
    publish(run, Manifest(**{**values, **changes}))
    return run


def complete(
    root: Path, word: str, *, stage: str = "lora", parents: Sequence[Parent] = (), **changes: Any
) -> RunDirectory:
    return finish(begin(root, word, stage=stage, parents=parents), parents=parents, **changes)


def from_run(run: RunDirectory, role: str = "model") -> Parent:
    return local_parent(role, str(run.model_path), run.model_path, "ab" * 32)
