"""Scores of a policy as tests make them."""

from __future__ import annotations

from typing import Any

from alignkit.evaluation.policy import PolicyScores
from alignkit.evaluation.scores import Graded

ANSWER = Graded(prompt="q", reference=None, answer="a", correct=True, finished=True, where="p.jsonl line 1")


def policy_scores(**changes: Any) -> PolicyScores:
    values: dict[str, Any] = {
        "rows": 4,
        "true_name": "json",
        "true_values": [1.0, 0.0, 1.0, 1.0],
        "share": True,
        "true_reward": 0.75,
        "true_reward_interval": (0.3, 0.95),
        "apart": True,
        "reward": 0.2,
        "reward_interval": (-0.1, 0.5),
        "reward_values": [0.1, -0.4, 0.6, 0.5],
        "parts": {"model": 0.2},
        "kl": 1.5,
        "kl_interval": (1.0, 2.0),
        "kl_per_token": 0.05,
        "length": 30.0,
        "cut": 0.25,
        "repetition": 0.1,
        "answers": [ANSWER],
        "seconds": 1.25,
    }
    return PolicyScores(**{**values, **changes})


def started() -> PolicyScores:
    """The same before training."""
    return policy_scores(
        true_values=[0.0, 0.0, 0.0, 1.0],
        true_reward=0.25,
        true_reward_interval=(0.05, 0.7),
        kl=0.0,
        kl_interval=(0.0, 0.0),
        kl_per_token=0.0,
        length=60.0,
    )
