"""Rows and runs for the tests of reward models: answers in capitals are worth more than answers that go on."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.stages.runs import train

BASICS: dict[str, Any] = {"data__max_length": 96, "evaluation__samples": 0, "evaluation__rows": 8, "data__holdout": 8}


def write_rows(path: Path, rows: int, make: Any, *, seed: int = 0) -> Path:
    rng = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            word = "".join(rng.choice("abcde") for _ in range(rng.randint(2, 8)))
            file.write(json.dumps(make(word, number, rng)) + "\n")
    return path


def turn(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


def pair(word: str, number: int, rng: random.Random) -> dict[str, Any]:
    row = {"prompt": turn("user", word), "chosen": turn("assistant", word.upper())}
    return {**row, "rejected": turn("assistant", word + word[::-1])}


def scored_pair(word: str, number: int, rng: random.Random) -> dict[str, Any]:
    return {**pair(word, number, rng), "chosen_score": 1 + number % 4, "rejected_score": number % 3 - 2}


def scored(word: str, number: int, rng: random.Random) -> dict[str, Any]:
    good = number % 2
    answer = word.upper() if good else word
    return {"prompt": turn("user", word), "completion": turn("assistant", answer), "score": 5 + 2 * good}


def labelled(word: str, number: int, rng: random.Random) -> dict[str, Any]:
    good = bool(number % 2)
    answer = word.upper() if good else word
    return {"prompt": turn("user", word), "completion": turn("assistant", answer), "label": good}


def ranked(word: str, number: int, rng: random.Random) -> dict[str, Any]:
    answers = [word, word.upper(), word[::-1], word[0].upper() + word[1:]]
    return {"prompt": turn("user", word), "answers": [turn("assistant", x) for x in answers], "scores": [0, 3, 1, 1]}


def reward(model: Path, data: Path, root: Path, *, fresh: bool = False, **changes: Any) -> dict[str, Any]:
    """`alignkit.train("reward", …)` in this process."""
    return train("reward", model, data, root, fresh=fresh, **{**BASICS, **changes})


def lines(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What metrics.jsonl says of the optimizer steps."""
    found = [json.loads(line) for line in (Path(result["run"]) / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if "loss" in line]
