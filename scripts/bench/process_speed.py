"""Two processes of one thread against one process of two threads, on the same rows at the same batch, in turn.

    python scripts/bench/process_speed.py [--model smollm2-135m] [--recipe lora] [--steps 6] [--rounds 2] [--toy]

Each side is the command line as a person types it; the time is that of the training loop, from the run's manifest.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SIDES = {
    "one process, two threads": ([], "2"),
    "two processes, ddp": (["launch=ddp", "launch.processes=2", "launch.device=cpu"], "1"),
    "two processes, fsdp": (["launch=fsdp", "launch.processes=2", "launch.device=cpu"], "1"),
}


def seconds(options: argparse.Namespace, model: str, place: Path, words: list[str], threads: str) -> float:
    """Seconds of the training loop of one run."""
    command = [sys.executable, "-m", "alignkit", "train", f"recipe={options.recipe}", f"model={model}", "data=tickets"]
    command += [
        f"schedule.max_steps={options.steps}",
        "evaluation.rows=0",
        "data.max_length=512",
        "batch.size=8",
        f"run.root={place}",
    ]
    command += [f"batch.micro={options.micro}", "checkpoint.every=1000", *words, "--json", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": threads})
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(json.loads(done.stdout)["metrics"]["training"]["seconds"])


def main() -> None:
    """Measure and print."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--model", default="smollm2-135m")
    asked.add_argument("--recipe", default="lora")
    asked.add_argument("--steps", type=int, default=6)
    asked.add_argument("--rounds", type=int, default=2)
    asked.add_argument("--micro", type=int, default=4, help="rows of a forward pass")
    asked.add_argument("--toy", action="store_true", help="a two-layer model, to see that the script works")
    options = asked.parse_args()
    took: dict[str, list[float]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        model = options.model
        if options.toy:
            sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
            from tests.tiny import save_tiny

            model = str(save_tiny(place / "tiny", max_position_embeddings=2048))
        for number in range(options.rounds):
            for side, (words, threads) in SIDES.items():
                took[side].append(seconds(options, model, place / f"runs-{number}-{len(side)}", words, threads))
    base = statistics.median(took["one process, two threads"])
    for side, found in took.items():
        each = statistics.median(found)
        told = ", ".join(f"{one:.1f}" for one in found)
        print(f"{side:26} {each:6.1f} s for {options.steps} steps, {each / base:.2f} times  ({told})")


if __name__ == "__main__":
    main()
