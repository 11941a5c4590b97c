"""Running recipes in tests: a tiny model, a few rows, a run directory of the test's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import alignkit

ROOT = Path(__file__).resolve().parents[2]

BASICS = {
    "data.holdout": "4",
    "data.max_length": "64",
    "evaluation.rows": "0",
    "batch.size": "4",
    "schedule.max_steps": "6",
    "optimizer.learning_rate": "5e-3",
    "checkpoint.every": "1",
    "model.dtype": "fp32",
}


def words(model: Path, data: Path, root: Path, **changes: Any) -> list[str]:
    """Overrides for a short run; `a__b=1` in `changes` stands for `a.b=1`."""
    values = {"model": str(model), "data": str(data), "run.root": str(root), **BASICS}
    values |= {key.replace("__", "."): str(value) for key, value in changes.items()}
    return [f"{key}={value}" for key, value in values.items()]


def train(recipe: str, model: Path, data: Path, root: Path, *, fresh: bool = False, **changes: Any) -> dict[str, Any]:
    """`alignkit.train` in this process."""
    return alignkit.train(recipe, words(model, data, root, **changes), fresh=fresh)


def command(recipe: str, overrides: list[str], *flags: str) -> list[str]:
    return [sys.executable, "-m", "alignkit", "train", f"recipe={recipe}", *overrides, *flags]


def shell(recipe: str, overrides: list[str], *flags: str) -> subprocess.CompletedProcess[str]:
    """`alignkit train …` in a process of its own."""
    return subprocess.run(
        command(recipe, overrides, *flags), capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=240
    )


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


def interrupt_when(recipe: str, overrides: list[str], needle: str, signum: signal.Signals) -> tuple[int, str]:
    """Start a run, send a signal when `needle` appears on stderr; returns exit code and stderr."""
    process = subprocess.Popen(
        command(recipe, overrides),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(),
    )
    assert process.stderr is not None
    lines = []
    deadline = time.monotonic() + 200
    for line in process.stderr:
        lines.append(line)
        if needle in line:
            process.send_signal(signum)
            break
        assert time.monotonic() < deadline
    rest = process.stderr.read()
    process.wait(timeout=120)
    return process.returncode, "".join(lines) + rest


def weights(result: dict[str, Any]) -> dict[str, bytes]:
    """Bytes of every weight file of a result."""
    found = {p.name: p.read_bytes() for p in sorted(Path(result["path"]).glob("*.safetensors"))}
    assert found
    return found
