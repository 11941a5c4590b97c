"""A digested checkpoint against the plain save of the same tensors, both flushed to the disk, in turn.

    python scripts/bench/checkpoint_cost.py [--millions 40] [--rounds 5] [--directory DIR]

Plain: the weights by safetensors, the optimizer's states by torch.save, fsync of each file and of the directory, and a
rename. Ours: the same files through alignkit.training.checkpoints, which adds SHA-256 of each and a sealed list.
The optimizer is AdamW, so a checkpoint is three times the weights.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from alignkit.runs.atomic import fsync_directory, fsync_file
from alignkit.training import checkpoints


def tensors(millions: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights of so many millions of values, and the states that AdamW keeps of them."""
    layers = 12
    rows = max(1, int(millions * 1e6 / layers / 1024))
    weights = {f"layers.{number}.weight": torch.randn(rows, 1024) for number in range(layers)}
    moments = {number: {"exp_avg": one.clone(), "exp_avg_sq": one**2} for number, one in enumerate(weights.values())}
    return weights, {"state": moments, "param_groups": [{"params": list(moments)}]}


def plain(directory: Path, weights: dict[str, Any], states: dict[str, Any]) -> None:
    """What a Trainer writes, flushed."""
    folder = directory / "new"
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    torch.save(states, folder / "optimizer.pt")
    for file in folder.iterdir():
        fsync_file(file)
    fsync_directory(folder)
    folder.rename(directory / "checkpoint-1")
    fsync_directory(directory)


def digested(directory: Path, weights: dict[str, Any], states: dict[str, Any]) -> None:
    """What alignkit writes."""
    folder = checkpoints.staging(directory) / "checkpoint-1"
    folder.mkdir()
    with checkpoints.Sealing(folder) as sealing:
        save_file(weights, folder / "model.safetensors")
        sealing.look()
        torch.save(states, folder / "optimizer.pt")
        checkpoints.commit(folder, directory, sealing)


def seconds(write: Callable[[Path, dict[str, Any], dict[str, Any]], None], place: Path, *what: Any) -> float:
    directory = place / "run"
    directory.mkdir()
    began = time.perf_counter()
    write(directory, *what)
    took = time.perf_counter() - began
    shutil.rmtree(directory)
    return took


def main() -> None:
    """Measure and print."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--millions", type=float, default=40, help="of weights")
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--directory", type=Path, help="on the disk to be measured")
    options = asked.parse_args()
    weights, states = tensors(options.millions)
    size = 3 * sum(one.nbytes for one in weights.values())
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        place = Path(name)
        took: dict[str, list[float]] = {"plain": [], "digested": []}
        for number in range(options.rounds + 1):  # the first of each is not counted
            for kind, write in (("plain", plain), ("digested", digested)):
                found = seconds(write, place, weights, states)
                if number:
                    took[kind].append(found)
    for kind, found in took.items():
        told = ", ".join(f"{one:.2f}" for one in found)
        print(f"{kind:9} {statistics.median(found):6.2f} s for {size / 1e6:,.0f} MB  ({told})")
    ratio = statistics.median(took["digested"]) / statistics.median(took["plain"])
    print(f"a digested checkpoint takes {ratio:.2f} times the plain save")


if __name__ == "__main__":
    main()
