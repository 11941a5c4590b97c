"""Intervals and ranks against definitions that are written out, and against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.evaluation.scores import wilson
from alignkit.evaluation.statistics import (
    area_under_curve,
    bootstrap_interval,
    controlled_mean,
    correlation,
    mean_interval,
)

VALUES = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=12)


@given(VALUES, VALUES)
def test_the_area_is_the_share_of_pairs_in_order(wanted: list[float], unwanted: list[float]) -> None:
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in wanted for b in unwanted]
    area, (low, high) = area_under_curve(wanted, unwanted)
    assert area == pytest.approx(sum(pairs) / len(pairs))
    assert 0 <= low <= area + 1e-12 and area - 1e-12 <= high <= 1
    assert area_under_curve(unwanted, wanted)[0] == pytest.approx(1 - area)


def test_the_areas_interval_holds_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    truth = 0.5 * (1 + math.erf(1 / 2))  # of normals one standard deviation apart: Phi(1/sqrt 2)
    held = 0
    for _ in range(400):
        low, high = area_under_curve(rng.normal(1, 1, 40), rng.normal(0, 1, 60))[1]
        held += low <= truth <= high
    assert 0.92 <= held / 400 <= 0.98


@pytest.mark.parametrize(("wanted", "area"), [([3.0, 4.0, 5.0], 1.0), ([-3.0, -4.0], 0.0), ([1.0] * 8, 0.5)])
def test_sides_that_do_not_overlap_are_no_certainty(wanted: list[float], area: float) -> None:
    found, (low, high) = area_under_curve(wanted, [1.0] * 8)
    fewest = len(wanted)
    assert found == area and (low, high) == wilson(area * fewest, fewest) and high - low > 0.4


def test_one_value_bounds_nothing() -> None:
    assert mean_interval([3.0]) == (-math.inf, math.inf)
    assert area_under_curve([1.0], [0.0]) == (1.0, (0.0, 1.0))
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])
    with pytest.raises(ValueError, match="nothing to compare"):
        area_under_curve([], [1.0])


def test_a_means_interval() -> None:
    # 1..9: mean 5, standard deviation sqrt(7.5), standard error sqrt(7.5)/3.
    assert mean_interval(list(range(1, 10))) == pytest.approx(
        (5 - 1.959964 * 7.5**0.5 / 3, 5 + 1.959964 * 7.5**0.5 / 3)
    )


def test_correlation() -> None:
    assert correlation([1, 2, 3, 4], [2, 4, 6, 8]) == pytest.approx(1)
    assert correlation([1, 2, 3, 4], [1, -1, -1, 1]) == pytest.approx(0)
    assert correlation([1, 2], [2, 4]) is None
    assert correlation([1, 1, 1], [1, 2, 3]) is None
    assert correlation([1, 2, math.nan], [1, 2, 3]) is None


def test_a_control_variate_takes_luck_out_of_a_kl() -> None:
    """Draws from one distribution over a few tokens: the KL to another is known, and so is the mean ratio (1)."""
    rng = np.random.default_rng(1)
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.35, 0.4, 0.25])
    exact = float((p * np.log(p / q)).sum())
    plain, controlled, held, narrower = [], [], 0, 0
    for _ in range(300):
        tokens = rng.choice(3, (64, 8), p=p)
        values, zero = np.log(p / q)[tokens].sum(1), (q / p - 1)[tokens].sum(1)
        mean, (low, high) = controlled_mean(values, zero)
        plain.append(values.mean())
        controlled.append(mean)
        held += low <= 8 * exact <= high
        narrower += high - low < 0.5 * np.subtract(*mean_interval(values)[::-1])
    assert np.mean(controlled) == pytest.approx(8 * exact, abs=0.01)
    assert np.std(controlled) < 0.3 * np.std(plain)
    assert 0.9 <= held / 300 <= 0.99 and narrower > 290


def test_what_cannot_be_set_right_is_left_alone() -> None:
    """Few values; a control that does not vary; one whose rare large values are missing."""
    assert controlled_mean([1.0, 2.0, 6.0], [1.0, 2.0, 6.0]) == (3.0, mean_interval([1.0, 2.0, 6.0]))
    assert controlled_mean([2.0] * 12, [0.0] * 12) == (2.0, (2.0, 2.0))
    lopsided = np.linspace(-1, -0.9, 50)
    assert controlled_mean(lopsided * 3, lopsided) == (float((lopsided * 3).mean()), mean_interval(lopsided * 3))


def test_the_bootstrap_interval_is_that_of_means_drawn_with_replacement() -> None:
    rng = np.random.default_rng(3)
    values = rng.exponential(2.0, 50)
    means = [rng.choice(values, 50).mean() for _ in range(20_000)]
    low, high = bootstrap_interval(values)
    assert (low, high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.03)
    assert bootstrap_interval(values) == (low, high), "the same twice"
    assert bootstrap_interval(values, seed=1) != (low, high)


def test_the_bootstrap_interval_holds_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        low, high = bootstrap_interval((rng.random(64) < 0.7).astype(float), resamples=1000)
        held += low <= 0.7 <= high
    assert 0.91 <= held / 400 <= 0.98


def test_many_values_are_drawn_in_parts() -> None:
    values = np.arange(30_000) % 7
    low, high = bootstrap_interval(values, resamples=200)
    assert low < values.mean() < high and high - low < 0.1


def test_bootstrap_intervals_of_few_values() -> None:
    assert bootstrap_interval([2.0]) == (-math.inf, math.inf)
    assert bootstrap_interval([1.0, 1.0, 1.0]) == (1.0, 1.0)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval([])
