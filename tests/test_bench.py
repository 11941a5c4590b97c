"""The benchmarks run; what they measure is not tested here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("script", "words", "expected"),
    [
        ("startup.py", ["--runs", "1"], "alignkit --help"),
        ("data_speed.py", ["--toy", "--rows", "200"], "times as fast"),
        ("merge_speed.py", ["--small", "--methods", "linear,slerp,dare_ties"], "reading 2 models and writing one"),
        ("dpo_speed.py", ["--small", "--rows", "16", "--held-out", "4"], "0 rows, 16 from the cache"),
        ("rlhf_speed.py", ["--small", "--steps", "1", "--algorithms", "ppo,grpo"], "times as many tokens"),
        ("rlhf_memory.py", ["--small", "--prompt", "16", "--answer", "16", "--steps", "1"], "times that of SFT"),
        ("context_memory.py", ["--small"], "slope, packed: alignkit"),
        ("distill_memory.py", ["--tokens", "64", "--vocabularies", "500,1000", "--cases", "samples"], "50 samples"),
        (
            "distill_speed.py",
            ["--toy", "--rows", "16", "--length", "48", "--steps", "2", "--rounds", "1", "--times", "1"],
            "cached",
        ),
        ("checkpoint_cost.py", ["--millions", "0.2", "--rounds", "1"], "times the plain save"),
        ("process_speed.py", ["--toy", "--steps", "2", "--rounds", "1"], "two processes, fsdp"),
        ("sft_speed.py", ["--toy", "--rows", "8", "--held-out", "4"], "times as fast on the same labelled tokens"),
    ],
)
def test_a_benchmark_runs(script: str, words: list[str], expected: str) -> None:
    done = subprocess.run(
        [sys.executable, f"scripts/bench/{script}", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
