"""Mean and spread of all scores seen so far."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from torch import Tensor


@dataclass
class RunningMoments:
    """Count, mean and sum of squared deviations, in doubles; a batch is merged in by Chan et al. 1979.

    Only finite scores count.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared deviations from the mean."""

    @classmethod
    def of(cls, scores: Tensor) -> RunningMoments:
        """Those of these scores alone."""
        moments = cls()
        moments.update(scores)
        return moments

    def update(self, scores: Tensor) -> None:
        """Take in scores of any shape."""
        known = scores.detach().double()[scores.isfinite()]
        if not known.numel():
            return
        count, mean = known.numel(), float(known.mean())
        shift, total = mean - self.mean, self.count + known.numel()
        self.squares += float((known - mean).square().sum()) + shift**2 * self.count * count / total
        self.mean += shift * count / total
        self.count = total

    @property
    def std(self) -> float:
        """The population's standard deviation; 1 while all scores were the same, so that it can always divide."""
        found = math.sqrt(self.squares / self.count) if self.count else 0.0
        return found if found > 1e-8 * max(1.0, abs(self.mean)) else 1.0

    def state_dict(self) -> dict[str, float]:
        """All of it, ready for JSON, which keeps doubles exactly."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, float]) -> None:
        """The state that :meth:`state_dict` gave."""
        self.count, self.mean, self.squares = int(state["count"]), state["mean"], state["squares"]
