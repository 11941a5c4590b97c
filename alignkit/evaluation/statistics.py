"""The few statistics that an evaluation reports: means, ranks and correlations, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from alignkit.evaluation.scores import wilson

NORMAL_95 = 1.959964
Numbers = Sequence[float] | NDArray[np.floating]


def mean_interval(values: Numbers) -> tuple[float, float]:
    """95% interval of a mean, by its standard error; without bounds for a single value.

    Raises:
        ValueError: no values.
    """
    found = np.asarray(values, np.float64)
    if not len(found):
        raise ValueError("an interval needs at least one value")
    if len(found) == 1:
        return -math.inf, math.inf
    half = NORMAL_95 * float(found.std(ddof=1)) / math.sqrt(len(found))
    return float(found.mean()) - half, float(found.mean()) + half


def controlled_mean(values: Numbers, zero: Numbers) -> tuple[float, tuple[float, float]]:
    """Mean of ``values`` and its 95% interval, with what is known of ``zero`` taken into account: its mean is 0, so a
    sample in which it is not is lopsided, and the values are set right by as much as they go along with it.

    The regression estimator of control variates: consistent, and its variance is at most that of the plain mean. The
    plain mean is given below ten values, where the slope is a guess, and where the mean of ``zero`` is more than three
    standard errors off: then the sample lacks the rare large values that make it 0.
    """
    found, control = np.asarray(values, np.float64), np.asarray(zero, np.float64)
    usable = len(found) >= 10 and bool(np.isfinite(control).all()) and control.std() > 0
    if not usable or abs(control.mean()) > 3 * control.std(ddof=1) / math.sqrt(len(found)):
        return float(found.mean()), mean_interval(found)
    centred = control - control.mean()
    slope = float((centred * found).sum() / (centred**2).sum())
    mean = float(found.mean()) - slope * float(control.mean())
    # The usual error of a regression's value at control = 0, which lies off the sample's middle.
    residual = found - found.mean() - slope * centred
    variance = float((residual**2).sum()) / (len(found) - 2)
    half = NORMAL_95 * math.sqrt(variance * (1 / len(found) + float(control.mean()) ** 2 / float((centred**2).sum())))
    return mean, (mean - half, mean + half)


def area_under_curve(wanted: Numbers, unwanted: Numbers) -> tuple[float, tuple[float, float]]:
    """Probability that one of ``wanted`` is above one of ``unwanted``, a tie counted half, and its 95% interval.

    The area under the ROC curve (Mann and Whitney's U); its variance as DeLong et al. 1988 have it: of each value the
    share of the other side that it is above (or below), and how much those shares differ. Where they do not differ at
    all (one side lies above the other as a whole), that variance would be 0; then it is Wilson's interval of as many
    comparisons as the smaller side has values.

    Raises:
        ValueError: one side is empty.
    """
    high, low = np.asarray(wanted, np.float64), np.asarray(unwanted, np.float64)
    if not len(high) or not len(low):
        raise ValueError("there is nothing to compare with")
    ordered_high, ordered_low = np.sort(high), np.sort(low)
    # Of each wanted value the share of the unwanted below it, and of each unwanted that of the wanted above it.
    below = np.searchsorted(ordered_low, high, "left") + np.searchsorted(ordered_low, high, "right")
    above = np.searchsorted(ordered_high, low, "left") + np.searchsorted(ordered_high, low, "right")
    of_wanted, of_unwanted = below / (2 * len(low)), 1 - above / (2 * len(high))
    area = float(of_wanted.mean())
    variance = sum(float(part.var(ddof=1)) / len(part) for part in (of_wanted, of_unwanted) if len(part) > 1)
    half = NORMAL_95 * math.sqrt(variance)
    if not variance and len(high) > 1 and len(low) > 1:
        fewest = min(len(high), len(low))
        return area, wilson(area * fewest, fewest)
    if len(high) == 1 or len(low) == 1:
        return area, (0.0, 1.0)
    return area, (max(0.0, area - half), min(1.0, area + half))


def correlation(x: Numbers, y: Numbers) -> float | None:
    """Pearson's r; None where there are fewer than three points, or one side does not vary."""
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(a) < 3 or not np.isfinite(a).all() or not np.isfinite(b).all() or not a.std() or not b.std():
        return None
    return float(np.corrcoef(a, b)[0, 1])


def bootstrap_interval(values: Numbers, *, seed: int = 0, resamples: int = 10_000) -> tuple[float, float]:
    """95% percentile interval of a mean (Efron and Tibshirani 1993, chapter 13): the same values drawn again with
    replacement, as often as there are values; of the means of ``resamples`` such draws the middle 95%. Without bounds
    for a single value. The same values and seed give the same interval.

    Raises:
        ValueError: no values.
    """
    found = np.asarray(values, np.float64)
    if not len(found):
        raise ValueError("an interval needs at least one value")
    if len(found) == 1:
        return -math.inf, math.inf
    chances = np.random.Generator(np.random.PCG64(seed))
    means = np.empty(resamples)
    step = max(1, 1_000_000 // len(found))  # so that few megabytes are held at a time
    for start in range(0, resamples, step):
        end = min(start + step, resamples)
        means[start:end] = found[chances.integers(0, len(found), (end - start, len(found)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
