"""Prompts, rewards and runs for the tests of the rlhf stage: answers with a letter of the first half are right."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import alignkit
from tests.stages.runs import words

REWARD = "[{name: regex, pattern: '[a-m]'}]"

BASICS: dict[str, Any] = {
    "data__holdout": 8,
    "data__max_length": 64,
    "evaluation__rows": 0,
    "evaluation__samples": 0,
    "rlhf__rewards": REWARD,
    "rlhf__max_new_tokens": 4,
    "rlhf__prompts": 4,
    "rlhf__samples": 4,
    "rlhf__missing_eos_penalty": 0,
    "batch__size": 8,
    "checkpoint__every": 100,
    "optimizer__learning_rate": 1e-2,
}


def write_prompts(path: Path, rows: int = 24, *, seed: int = 0, answers: bool = False) -> Path:
    """Questions as JSONL, all of them different; with ``answers`` each has one that can be checked."""
    rng = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            word = "".join(rng.choice("abcde") for _ in range(rng.randint(2, 8))) + str(number)
            row: dict[str, Any] = {"prompt": [{"role": "user", "content": word}]}
            file.write(json.dumps(row | ({"answer": word[0]} if answers else {})) + "\n")
    return path


def learn(
    model: Path, data: Path, root: Path, *, recipe: str = "rlhf", allow_code: bool = False, **changes: Any
) -> dict[str, Any]:
    """`alignkit.train("rlhf", …)` in this process."""
    return alignkit.train(recipe, words(model, data, root, **{**BASICS, **changes}), allow_code=allow_code)


def lines(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What metrics.jsonl says of the optimizer steps."""
    file = Path(result["run"]) / "metrics.jsonl"
    return [line for line in map(json.loads, file.read_text().splitlines()) if "loss" in line]


def rewards(result: dict[str, Any]) -> list[float]:
    """The mean reward of each rollout."""
    return [line["rollout/reward"] for line in lines(result) if "rollout/reward" in line]


def figures(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures of each step that the clock has no part in."""
    clocks = ("tokens_per_second", "labelled_per_second", "peak_memory_bytes")
    return [{name: value for name, value in line.items() if name not in clocks} for line in lines(result)]
