"""Rollouts of made-up answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from alignkit.rollouts.rollout import Rolled, Rollout


def answer(prompt: int, sample: int, ids: list[int], reward: float, **changes: Any) -> Rolled:
    values: dict[str, Any] = {"trunk": [1, prompt + 5], "text": " ".join(map(str, ids)), "finished": True}
    place = {"prompt": prompt, "sample": sample, "where": f"p.jsonl line {prompt + 1}", "ids": ids, "reward": reward}
    return Rolled(**{**values, **place, **changes})


def rollout(prompts: int = 4, samples: int = 3, *, seed: int = 0, number: int = 0, known: bool = True) -> Rollout:
    """Random answers of 1 to 9 tokens with all that can be known of them."""
    rng = np.random.default_rng(seed)
    answers = [
        answer(
            prompt,
            sample,
            rng.integers(3, 9, rng.integers(1, 10)).tolist(),
            float(rng.integers(0, 3)),
            finished=bool(rng.random() < 0.7),
            parts={"json": float(rng.integers(0, 2)), "length": float(rng.normal())},
        )
        for prompt in range(prompts)
        for sample in range(samples)
    ]
    found = Rollout.of(number, answers)
    if known:
        tokens = int(found.tokens.sum())
        for name in ("policy", "reference", "values", "entropy", "advantages", "returns"):
            setattr(found, name, torch.tensor(rng.normal(size=tokens), dtype=torch.float32))
    return found
