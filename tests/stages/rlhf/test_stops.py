"""Rules that end a run: made-up curves that go wrong in one way each, and curves that do not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.stages.rlhf.recipe_watch import StopOptions, watch_faults
from alignkit.stages.rlhf.stops import Look, best, change, changes, fallen, too_far, worse_than_start


def look(step: int, right: int, *, reward: float = 0.5, rows: int = 40) -> Look:
    """A look at which the first ``right`` prompts were answered well."""
    return Look(step, tuple(float(n < right) for n in range(rows)), (reward,) * rows)


def test_the_best_look_is_the_first_of_the_highest_after_a_step() -> None:
    looks = [look(0, 40), look(4, 10), look(8, 20), look(12, 20), look(16, 5)]
    found = best(looks)
    assert found is not None and found.step == 8
    assert best(looks[:1]) is None, "the start is no checkpoint"
    unknown = Look(20, (math.nan,) * 40, (0.0,) * 40)
    assert best([unknown, look(24, 0)]) == look(24, 0)


def test_a_look_comes_back_from_its_line() -> None:
    one = Look(3, (1.0, math.nan, 0.5), (0.25, 1.0, -2.0))
    line = {**one.line(), "look/true_values": [1.0, None, 0.5]}  # as JSON has it
    again = Look.of(line)
    assert again is not None and again.step == 3 and again.reward == one.reward
    assert again.true[0] == 1.0 and math.isnan(again.true[1]) and again.mean == 0.75
    assert Look.of({"step": 3, "loss": 1.0}) is None


@pytest.mark.parametrize(
    ("options", "curve", "rule"),
    [
        (StopOptions(kl=2.0, window=3), [{"kl": value} for value in (1, 1, 1)], None),
        (StopOptions(kl=2.0, window=3), [{"kl": value} for value in (9, 9)], None),
        (StopOptions(kl=2.0, window=3), [{"kl": value} for value in (0, 0, 5, 2.5)], "kl"),
        (StopOptions(kl=2.0, window=1), [{"kl": value} for value in (9, 1)], None),
        (StopOptions(entropy=0.1, window=2), [{"entropy": value} for value in (2, 0.3)], None),
        (StopOptions(entropy=0.1, window=2), [{"entropy": value} for value in (2, 0.05, 0.1)], "entropy"),
        (StopOptions(window=1), [{"kl": 99.0, "entropy": 0.0}], None),
        (StopOptions(kl=2.0, window=1), [{"entropy": 0.0}], None),
    ],
)
def test_too_far(options: StopOptions, curve: list[dict[str, float]], rule: str | None) -> None:
    ended = too_far(options, curve)
    assert (ended.rule if ended else None) == rule
    if ended is not None:
        assert f"rlhf.stop.{rule}=" in ended.sentence


DROP = StopOptions(every=4, true_reward_drop=0.0)


def test_a_true_metric_that_falls_while_the_reward_rises_ends_the_run() -> None:
    looks = [look(0, 10, reward=0.1), look(4, 30, reward=0.4), look(8, 15, reward=0.6)]
    ended = fallen(DROP, looks)
    assert ended is not None and ended.rule == "true_reward_drop"
    assert "fallen by 0.375 since step 4" in ended.sentence and "+0.2" in ended.sentence
    assert fallen(StopOptions(every=4, true_reward_drop=0.5), looks) is None, "not by so much"
    assert fallen(StopOptions(every=4), looks) is None


def test_what_is_no_played_reward_ends_nothing() -> None:
    assert fallen(DROP, [look(4, 30, reward=0.6)]) is None
    assert fallen(DROP, [look(4, 30, reward=0.6), look(8, 15, reward=0.4)]) is None, "both fell"
    assert fallen(DROP, [look(4, 30), look(8, 31)]) is None
    assert fallen(DROP, [look(4, 20), look(8, 19)]) is None, "one of forty is chance"


def test_a_fall_is_measured_from_the_start_where_that_was_best() -> None:
    ended = fallen(DROP, [look(0, 35, reward=0.1), look(4, 20, reward=0.5)])
    assert ended is not None and "since step 0" in ended.sentence


def test_weights_that_are_worse_than_the_start_are_told() -> None:
    looks = [look(0, 30), look(4, 10)]
    assert "those of step 4" in worse_than_start(looks, looks[1]) and "0.5 lower" in worse_than_start(looks, looks[1])
    near = [look(0, 21), look(4, 20)]
    assert worse_than_start(near, near[1]) == ""
    assert worse_than_start(looks[1:], looks[1]) == "", "the start was not looked at"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=2, max_size=30))
def test_a_change_is_the_mean_of_the_differences_and_lies_in_its_interval(pairs: list[tuple[float, float]]) -> None:
    now, before = zip(*pairs, strict=True)
    found = change(now, before)
    assert found is not None
    mean, (low, high) = found
    moved = np.array(now) - np.array(before)
    assert mean == pytest.approx(moved.mean())
    assert moved.min() - 1e-9 <= low <= high <= moved.max() + 1e-9
    backwards = change(before, now)
    assert backwards is not None and backwards[0] == pytest.approx(-mean)


def test_prompts_of_which_one_side_is_not_known_take_no_part() -> None:
    assert change([1.0, math.nan, 1.0], [0.0, 0.0, math.nan]) == (1.0, (-math.inf, math.inf))
    assert change([math.nan], [0.0]) is None


def test_changes_since_the_start() -> None:
    found = changes(look(4, 30, reward=0.75), look(0, 10, reward=0.5))
    assert found["true_change"] == 0.5 and 0.3 < found["true_change_low"] < 0.5 < found["true_change_high"] < 0.7
    assert found["reward_change"] == found["reward_change_low"] == 0.25
    assert changes(look(0, 10), look(0, 10)) == {}


@pytest.mark.parametrize(
    ("stop", "given", "where"),
    [
        (StopOptions(kl=5.0), {}, ["rlhf.stop.kl"]),
        (StopOptions(kl=5.0, entropy=0.1), {}, ["rlhf.stop.kl", "rlhf.stop.entropy"]),
        (StopOptions(keep="best"), {}, ["rlhf.stop.keep"]),
        (StopOptions(every=4, kl=5.0, keep="best"), {}, []),
        (StopOptions(every=4), {"holdout": 0}, ["rlhf.stop.every"]),
        (StopOptions(every=4, true_reward_drop=0.0), {}, []),
        (StopOptions(every=4, true_reward_drop=0.0), {"true_reward": False}, ["rlhf.stop.true_reward_drop"]),
        (StopOptions(), {"patience": 3}, ["schedule.patience"]),
        (StopOptions(), {"holdout": 0}, []),
    ],
)
def test_what_cannot_work_is_told(stop: StopOptions, given: dict[str, Any], where: list[str]) -> None:
    found = list(watch_faults(stop, **{"holdout": 8, "patience": None, "true_reward": True, **given}))
    assert [fault.where for fault in found] == where
    assert all(fault.instead for fault in found)
