"""Made-up rollouts for the tests of the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor


def tensor(values: object) -> Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float64)


@dataclass
class Made:
    """A rollout of random numbers in float64; ``lengths`` of its answers."""

    lengths: list[int]
    seed: int = 0
    spread: float = 0.4
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        answers, tokens = len(self.lengths), sum(self.lengths)
        self.scores = self.rng.normal(0, 2, answers)
        self.old = -self.rng.uniform(0.05, 4, tokens)
        self.new = self.old + self.rng.normal(0, self.spread, tokens)
        self.reference = self.old + self.rng.normal(0, self.spread, tokens)
        self.advantages = self.rng.normal(0, 1.5, tokens)
        self.values = self.rng.normal(0, 1, tokens)
        self.old_values = self.values + self.rng.normal(0, 0.3, tokens)
        self.returns = self.rng.normal(0, 1.5, tokens)
        self.entropy = self.rng.uniform(0, 3, tokens)
        self.tokens = torch.tensor(self.lengths)


LENGTHS = [3, 1, 7, 2, 5, 4]
lengths = st.lists(st.integers(1, 9), min_size=1, max_size=6)
seeds = st.integers(0, 10_000)


def numeric(function, values: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """The gradient of a scalar function by central differences."""
    found = np.zeros_like(values)
    for at in range(len(values)):
        up, down = values.copy(), values.copy()
        up[at] += step
        down[at] -= step
        found[at] = (function(up) - function(down)) / (2 * step)
    return found
