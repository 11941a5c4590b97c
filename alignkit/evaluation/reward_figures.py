"""Figures of rewards: arithmetic on arrays, no model in here.

P pairs, N answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.evaluation.calibration import calibration_error, reliability, sigmoid
from alignkit.evaluation.rewardbench import by_group, sections
from alignkit.evaluation.rewarded import BestOf, RewardScores, Spread
from alignkit.evaluation.scores import wilson
from alignkit.evaluation.statistics import area_under_curve, correlation, mean_interval

Floats = NDArray[np.floating[Any]]
STRONG = 0.5
"""A correlation with length from which on a person is warned."""
ENOUGH = 20
"""Rows from which on such a correlation is more than chance."""


def of_pairs(
    chosen: Floats, rejected: Floats, chosen_length: Floats, rejected_length: Floats, groups: Sequence[str | None] = ()
) -> dict[str, Any]:
    """Fields of `RewardScores` for P pairs, from (P,) rewards and lengths. ``groups``: which part of a benchmark each
    pair belongs to."""
    difference, longer = chosen - rejected, chosen_length - rejected_length
    right = (difference > 0) + (difference == 0) / 2
    bins = reliability(sigmoid(difference))
    uneven = longer != 0
    shorter = longer < 0
    rewarded = (np.sign(difference) == np.sign(longer))[uneven] + (difference == 0)[uneven] / 2
    parts = by_group(right, groups)
    return {
        "rows": len(chosen),
        "accuracy": float(right.mean()),
        "accuracy_interval": wilson(float(right.sum()), len(right)),
        "margin": float(difference.mean()),
        "calibration_error": calibration_error(bins),
        "reliability": bins,
        "rewards": {"chosen": spread(chosen), "rejected": spread(rejected)},
        # Which of the two is called the better must not matter: each pair counts in both orders.
        "length_correlation": correlation(np.r_[difference, -difference], np.r_[longer, -longer]),
        "longer_is_better": float((longer > 0)[uneven].mean()) if uneven.any() else None,
        "longer_is_rewarded": float(rewarded.mean()) if uneven.any() else None,
        "accuracy_where_shorter": float(right[shorter].mean()) if shorter.any() else None,
        "parts": parts,
        "sections": sections(parts),
    }


def of_labels(rewards: Floats, wanted: NDArray[np.bool_], lengths: Floats) -> dict[str, Any]:
    """The same for N answers that were wanted or not."""
    right = (rewards > 0) == wanted
    chances = sigmoid(rewards)
    bins = reliability(np.where(wanted, chances, 1 - chances))
    found: dict[str, Any] = {
        "rows": len(rewards),
        "accuracy": float(right.mean()),
        "accuracy_interval": wilson(int(right.sum()), len(right)),
        "calibration_error": calibration_error(bins),
        "reliability": bins,
        "rewards": {
            name: spread(rewards[mine])
            for name, mine in (("wanted", wanted), ("unwanted", ~wanted))
            if bool(mine.any())
        },
        "length_correlation": correlation(rewards, lengths),
    }
    if wanted.any() and not wanted.all():
        found["area"], found["area_interval"] = area_under_curve(rewards[wanted], rewards[~wanted])
        found["margin"] = float(rewards[wanted].mean() - rewards[~wanted].mean())
    return found


def of_scores(rewards: Floats, scores: Floats, lengths: Floats, *, predicted: Floats | None = None) -> dict[str, Any]:
    """The same for N answers with scores. ``predicted``: rewards in units of the score, where they are meant to be."""
    error = None if predicted is None else math.sqrt(float(((predicted - scores) ** 2).mean()))
    return {
        "rows": len(rewards),
        "correlation": correlation(rewards, scores),
        "rank_correlation": correlation(ranks(rewards), ranks(scores)),
        "error": error,
        "rewards": {"answers": spread(rewards)},
        "length_correlation": correlation(rewards, lengths),
    }


def of_answers(rewards: Floats, lengths: Floats) -> dict[str, Any]:
    """The same for N answers of which nothing is known."""
    return {
        "rows": len(rewards),
        "rewards": {"answers": spread(rewards)},
        "length_correlation": correlation(rewards, lengths),
    }


def warnings(scores: RewardScores) -> list[str]:
    """What a person should look into before a policy is trained on such rewards."""
    found = []
    r = scores.length_correlation
    if r is not None and abs(r) >= STRONG and scores.rows >= ENOUGH:
        way = "longer" if r > 0 else "shorter"
        sentence = f"rewards go with length (r = {r:+.2f}): a policy trained on them may learn to write {way} answers"
        if scores.longer_is_better is not None:
            sentence += (
                f"; in the data the better answer is the longer one in {scores.longer_is_better:.0%} of the pairs"
            )
        if scores.accuracy_where_shorter is not None:
            sentence += f", and where it is the shorter one the accuracy is {scores.accuracy_where_shorter:.0%}"
        found.append(sentence)
    if scores.accuracy_interval is not None and scores.accuracy_interval[0] <= 0.5 and scores.accuracy is not None:
        low, high = scores.accuracy_interval
        found.append(
            f"accuracy {scores.accuracy:.0%} on {scores.rows:,} held-out rows ({low:.0%} to {high:.0%}) "
            "is not known to be better than chance"
        )
    if scores.calibration_error is not None and scores.rows >= 100 and scores.calibration_error > 0.15:
        found.append(
            f"the probabilities that the rewards give are off by {scores.calibration_error:.0%} on average: "
            "their differences say which answer is better, but not how surely"
        )
    return found


# --- distribution and ranks --------------------------------------------------------------------------------------


def spread(values: Floats) -> Spread:
    """Where (N,) rewards lie; N at least 1."""
    tenth, median, ninetieth = (float(x) for x in np.quantile(values, (0.1, 0.5, 0.9)))
    return Spread(
        count=len(values),
        mean=float(np.mean(values)),
        deviation=float(np.std(values)),
        tenth=tenth,
        median=median,
        ninetieth=ninetieth,
    )


def ranks(values: Floats) -> Floats:
    """(N,) ranks from 0, ties sharing their mean."""
    values = np.asarray(values, np.float64)
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray(((ends - counts + ends - 1) / 2)[which])


# --- the best of n ---------------------------------------------------------------------------------------------------


def best_of(rewards: Sequence[Floats], scores: Sequence[Floats]) -> list[BestOf]:
    """What the answer with the highest reward out of n is worth by the true scores, for n = 2, 4, 8 … and for as many
    as every prompt has. ``rewards``, ``scores``: for each prompt those of its answers.

    Exact over all choices of n answers out of a prompt's N: the answer with the k-th highest reward is the best of
    C(N-k, n-1) of the C(N, n) choices. Answers with the same reward share their chances.
    """
    fewest = min((len(one) for one in rewards), default=0)
    sizes = sorted({*(2**k for k in range(1, 12) if 2**k <= fewest), *([fewest] if fewest > 1 else [])})
    found = []
    for n in sizes:
        picked = np.array([_expected_best(r, s, n) for r, s in zip(rewards, scores, strict=True)])
        possible = np.array([_expected_best(s, s, n) for s in scores])
        plain = np.array([float(np.mean(s)) for s in scores])
        found.append(
            BestOf(
                n=n,
                prompts=len(rewards),
                picked=float(picked.mean()),
                lift=float((picked - plain).mean()),
                lift_interval=mean_interval(picked - plain),
                possible=float((possible - plain).mean()),
            )
        )
    return found


def _expected_best(rewards: Floats, scores: Floats, n: int) -> float:
    """Mean score of the answer with the highest reward among n of the N answers."""
    order = np.argsort(-np.asarray(rewards, np.float64), kind="stable")
    ordered, worth = np.asarray(rewards, np.float64)[order], np.asarray(scores, np.float64)[order]
    for level in np.unique(ordered):
        same = ordered == level
        worth[same] = worth[same].mean()
    total = math.comb(len(order), n)
    chances = np.array([math.comb(len(order) - k, n - 1) / total for k in range(1, len(order) + 1)])
    return float((chances * worth).sum())
