"""How long a person waits before anything happens: CPU seconds of `alignkit --help` and `alignkit check`.

    python scripts/bench/startup.py [--runs 7]

Each command runs in a process of its own; user and system seconds come from the operating system's accounting of the
finished process. The median is what counts: the limits are 0.15 s for --help and 0.7 s for a check with a model, a data
file and one typo.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def cpu_seconds(command: list[str], directory: Path) -> tuple[float, float]:
    """CPU and wall seconds of one run; what it prints is thrown away."""
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, usage = os.wait4(process.pid, 0)
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    alignkit = [sys.executable, "-m", "alignkit"]
    script = Path(sys.executable).with_name("alignkit")
    if script.exists():
        alignkit = [str(script)]
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        rows = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}] * 2000
        (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        check = ["check", "recipe=lora", "model=smollm2-135m", "data=./rows.jsonl", "optimizer.learning_rte=1e-4"]
        cases = [
            ("alignkit --help", [*alignkit, "--help"], 0.15),
            ("alignkit check (one typo)", [*alignkit, *check], 0.7),
        ]
        print(f"{'command':<28}{'CPU s, median':>14}{'min':>8}{'max':>8}{'wall s':>9}{'limit':>8}")
        for name, command, limit in cases:
            cpu_seconds(command, directory)  # the first run compiles and fills caches
            times = [cpu_seconds(command, directory) for _ in range(runs)]
            cpu = [t[0] for t in times]
            wall = statistics.median(t[1] for t in times)
            middle = statistics.median(cpu)
            print(f"{name:<28}{middle:>14.3f}{min(cpu):>8.3f}{max(cpu):>8.3f}{wall:>9.3f}{limit:>8.2f}")


if __name__ == "__main__":
    main()
