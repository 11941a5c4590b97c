"""The coefficient of the KL penalty: fixed, or steered so that the KL stays near a target."""

from __future__ import annotations

from dataclasses import dataclass

LARGEST_ERROR = 0.2
"""A KL far off the target counts as 20% off (Ziegler et al. 2019, section 2.2)."""


@dataclass
class KlController:
    """β of the penalty -β·KL. Without a target it stays what it is.

    Ziegler et al. 2019, section 2.2: e = clip((KL - target)/target, -0.2, 0.2), β ← β·(1 + K·e). Their K is 0.1 for a
    batch; as in their code it is answers/horizon here, so that it does not depend on how many answers a rollout has.
    """

    coefficient: float
    """β, of reward per nat."""
    target: float | None = None
    """Nats of KL(π ‖ π_ref) per answer (the sum over its tokens); None: fixed."""
    horizon: float = 10_000
    """Answers after which β has gone up or down by a factor of about e^0.2, while the KL is 20% off or more."""

    def __post_init__(self) -> None:
        if self.target is not None and not self.target > 0:
            raise ValueError(f"a target of {self.target} nats can not be steered to")
        if not self.horizon > 0:
            raise ValueError(f"a horizon of {self.horizon} answers is none")

    def update(self, kl: float, answers: int) -> float:
        """β after ``answers`` more answers, whose mean KL was ``kl`` nats an answer (k1)."""
        if self.target is not None:
            error = min(max(kl / self.target - 1, -LARGEST_ERROR), LARGEST_ERROR)
            # A rollout as large as the horizon would else reach 0 or less, from where there is no way back.
            self.coefficient *= max(1 + error * answers / self.horizon, 0.5)
        return self.coefficient

    def state_dict(self) -> dict[str, float]:
        """What a resumed run needs, ready for JSON."""
        return {"coefficient": self.coefficient}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """The state that :meth:`state_dict` gave."""
        self.coefficient = state["coefficient"]
