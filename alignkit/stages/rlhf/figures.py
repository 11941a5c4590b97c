"""Figures of a policy that learns from rewards: of the answers of one rollout, and of drawn held-out answers.

Letters: A answers, N tokens of all answers, answer by answer.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignkit.evaluation.policy import PolicyScores
from alignkit.evaluation.statistics import correlation
from alignkit.rollouts.rollout import Rollout
from alignkit.stages.rlhf.arithmetic.ragged import spread
from alignkit.stages.rlhf.arithmetic.value import explained_variance

NUMBER = "rollout"
"""In metrics.jsonl: which rollout a line tells of."""
PART = "rollout/reward/"
"""Before the name of each of the rewards."""
RUN_OF = 4
"""Tokens in a row that count as repeated."""

Floats = NDArray[np.float64]


def rollout_figures(rollout: Rollout, counted: Sequence[int] | None = None) -> dict[str, float]:
    """What metrics.jsonl says of a rollout, at its first optimizer step, by these names:

    `rollout` (its number from 0), and `rollout/…`: `answers`; `reward` (mean of the sums), `reward_deviation`,
    `reward/NAME` (mean of each reward, without its weight), `skipped` (share of the answers that a reward gave no
    number for); `kl` (nats an answer: the mean of sum log policy - log reference), `kl_token` (the same over the
    tokens); `entropy` (nats a token); `length` (tokens), `truncated` (share that the limit cut off), `repetition` (mean
    share of an answer's runs of four tokens that stood in it before), `length_correlation` (Pearson's r of reward and
    length); of prompts with several answers `level` (share whose answers are all worth the same) and `distinct` (share
    of their answers that are different); `explained_variance` of the values and `advantage_deviation`, both over the
    answers at the places ``counted`` (None: all), since the others have no returns. What is not known is left out.
    """
    answers = rollout.answers
    rewards = np.array([answer.reward for answer in answers], np.float64)
    lengths = rollout.tokens.double().numpy()
    known = np.isfinite(rewards)
    found: dict[str, float | None] = {
        "answers": len(answers),
        "reward": _mean(rewards[known]),
        "reward_deviation": _mean(rewards[known], np.std),
        "skipped": 1 - float(known.mean()),
        "length": float(lengths.mean()),
        "truncated": float(np.mean([not answer.finished for answer in answers])),
        "repetition": float(np.mean([repeated(answer.ids) for answer in answers])),
        "length_correlation": correlation(rewards[known], lengths[known]),
        **_groups([answer.prompt for answer in answers], rewards, [tuple(answer.ids) for answer in answers]),
    }
    kl = rollout.kl  # (A,)
    if kl is not None:
        found["kl"], found["kl_token"] = float(kl.double().mean()), float(kl.double().sum() / rollout.tokens.sum())
    if rollout.entropy is not None:
        found["entropy"] = float(rollout.entropy.double().mean())
    part = _tokens_of(rollout.tokens, counted)
    if rollout.values is not None and rollout.returns is not None:
        found["explained_variance"] = explained_variance(rollout.values[part], rollout.returns[part])
    if rollout.advantages is not None and bool(part.any()):
        found["advantage_deviation"] = float(rollout.advantages[part].double().std(correction=0))
    figures = {f"{NUMBER}/{name}": value for name, value in found.items() if value is not None}
    for name in dict.fromkeys(name for answer in answers for name in answer.parts):
        given = np.array([answer.parts.get(name, math.nan) for answer in answers], np.float64)
        if np.isfinite(given).any():
            figures[f"{PART}{name}"] = float(given[np.isfinite(given)].mean())
    return {NUMBER: rollout.number, **figures}


def _tokens_of(tokens: Tensor, counted: Sequence[int] | None) -> Tensor:
    """(N,) bool: the tokens of these answers, of all without them. ``tokens`` (A,) is how many each has."""
    taken = torch.full_like(tokens, counted is None, dtype=torch.bool)
    if counted is not None:
        taken[list(counted)] = True
    return spread(taken, tokens)


def repeated(ids: Sequence[int], run: int = RUN_OF) -> float:
    """Share of the runs of ``run`` tokens that stood in the same answer before: 0 where nothing is said twice."""
    runs = [tuple(ids[at : at + run]) for at in range(len(ids) - run + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def named(scores: PolicyScores) -> dict[str, float]:
    """Scores by the names under which metrics.jsonl has them while training goes on."""
    found: dict[str, float | None] = {
        "true_reward": scores.true_reward,
        "reward": scores.reward,
        "kl": scores.kl,
        "kl_low": scores.kl_interval[0],
        "kl_token": scores.kl_per_token,
        "length": scores.length,
        "truncated": scores.cut,
        "repetition": scores.repetition,
        "true_change": scores.change,
        "reward_change": scores.reward_change,
    }
    for name, interval in (("true_change", scores.change_interval), ("reward_change", scores.reward_change_interval)):
        if interval is not None:
            found[f"{name}_low"], found[f"{name}_high"] = interval
    return {name: float(value) for name, value in found.items() if value is not None}


def facts(logs: Mapping[str, Any]) -> list[str]:
    """A step, or a look at held-out prompts, in a few words: reward, KL, entropy, length."""
    shapes = {
        "true_reward": "true metric {:.3f}",
        "reward": "reward {:.3f}",
        "kl": "KL {:.2f}",
        "length": "length {:.0f}",
        "rollout/reward": "reward {:.3f}",
        "rollout/kl": "KL {:.2f}",
        "rollout/entropy": "entropy {:.2f}",
        "rollout/length": "length {:.0f}",
    }
    # A look has its figures under plain names; a step's own loss figures are no part of the line.
    looked = "true_reward" in logs
    return [
        shape.format(logs[name])
        for name, shape in shapes.items()
        if looked != name.startswith("rollout/") and isinstance(logs.get(name), int | float)
    ]


def _groups(prompts: Sequence[int], rewards: Floats, answers: Sequence[Hashable]) -> dict[str, float | None]:
    """`level` and `distinct` of prompts with several answers, by prompt."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        places[prompt].append(place)
    several = [group for group in places.values() if len(group) > 1]
    if not several:
        return {}
    level = []
    for group in several:
        known = rewards[group][np.isfinite(rewards[group])]
        level.append(len(known) < 2 or bool((known == known[0]).all()))
    return {
        "level": float(np.mean(level)),
        "distinct": float(np.mean([len({answers[place] for place in group}) / len(group) for group in several])),
    }


def _mean(values: Floats, of: Any = np.mean) -> float | None:
    return float(of(values)) if len(values) else None
