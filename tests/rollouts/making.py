"""Prompts on the disk and rollouts out of random tokens."""

from __future__ import annotations

import json
import random
from pathlib import Path

from alignkit.config.sections import Data
from alignkit.data.prompts import Prompts, prepare_prompts
from alignkit.rollouts.rollout import Rolled
from tests.tiny import build_tokenizer


def some_prompts(directory: Path, count: int = 5) -> Prompts:
    """Questions of different lengths, with a column beside the prompt and an answer to compare with."""
    file = directory / "prompts.jsonl"
    rows = [{"prompt": f"question {'x' * (3 * n)}?", "answer": str(n), "level": n} for n in range(count)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return prepare_prompts(Data(name=str(file), holdout=0), build_tokenizer()).prompts


def random_answers(
    groups: list[list[int]], *, trunks: list[int] | None = None, vocab: int = 259, seed: int = 0
) -> list[Rolled]:
    """For each group answers of these lengths in tokens; ``trunks``: tokens of the prompts."""
    rng = random.Random(seed)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(3, vocab) for _ in range(count)]

    found = []
    for prompt, lengths in enumerate(groups):
        trunk = tokens(trunks[prompt] if trunks else 3 + 2 * prompt)
        for sample, length in enumerate(lengths):
            ids = tokens(length)
            text = "".join(map(chr, ids))
            found.append(Rolled(prompt, sample, f"line {prompt + 1}", trunk, ids, text, length % 2 == 0))
    return found
