"""Scores of a policy: they survive JSON, have a headline, and are shown with every figure that they have."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from alignkit.console.log import as_text
from alignkit.evaluation.policy import COMPARED, PolicyScores
from alignkit.evaluation.report import comparison, comparison_table, metrics_markdown
from alignkit.evaluation.scores import headline
from alignkit.evaluation.stored import stored
from tests.evaluation.policy_scores import policy_scores, started

CHANGED = {
    "change": 0.5,
    "change_interval": (0.1, 0.9),
    "reward_change": 0.3,
    "reward_change_interval": (0.1, 0.5),
}


@pytest.mark.parametrize(
    "scores",
    [
        policy_scores(),
        policy_scores(**CHANGED, warnings=["the reward is being hacked: look"]),
        policy_scores(reward_interval=(-math.inf, math.inf), parts={"json": 1.0, "length": -math.inf}),
        policy_scores(apart=False, answers=[], greedy=True),
    ],
)
def test_json_and_back(scores: PolicyScores) -> None:
    back = stored(json.loads(json.dumps(scores.as_dict(), allow_nan=False)))
    assert back == scores and isinstance(back, PolicyScores)


def test_nan_is_valid_json_too() -> None:
    plain = json.loads(
        json.dumps(policy_scores(true_values=[math.nan, 1.0], reward=math.nan).as_dict(), allow_nan=False)
    )
    back = stored(plain)
    assert isinstance(back, PolicyScores) and math.isnan(back.true_values[0]) and math.isnan(back.reward)


def test_the_headline_is_the_true_metric() -> None:
    assert headline(started(), policy_scores()) == {"name": "true_reward", "before": 0.25, "after": 0.75}


def test_what_a_table_compares_is_there() -> None:
    plain = policy_scores(**CHANGED).as_dict()
    assert all(isinstance(plain[name], float) for name in COMPARED if "." not in name)


def test_before_and_after_side_by_side() -> None:
    after = policy_scores(**CHANGED, warnings=["answers [bold]repeat themselves"])
    text = as_text(comparison_table(started(), after), 90)
    lines = {line.split("   ")[0].strip(): line for line in text.splitlines()}
    true = lines["true metric (json)"]
    assert "25.0%" in true and "75.0%" in true and "+50 points" in true
    assert "+50 points" in lines["change of true metric (json)"] and "+10 to +90" in text
    assert "+0.300" in lines["change of optimized reward"] and "+0.100 to +0.500" in text
    assert "0.200" in lines["optimized reward"]
    assert "1.500" in lines["KL to reference (nats)"] and "1.000 to 2.000" in text
    assert "-30.000" in lines["answer length (tokens)"]
    assert "warning: answers [bold]repeat themselves" in text


def test_a_metric_that_is_the_reward_is_shown_once() -> None:
    same = replace(policy_scores(**CHANGED), apart=False)
    text = as_text(comparison_table(None, same), 90)
    assert "reward (json)" in text and "optimized reward" not in text and "true metric" not in text
    mixed = as_text(comparison_table(None, policy_scores(parts={"json": 0.5, "length": 41.0})), 90)
    assert any(line.startswith("   length") and "41.00" in line for line in mixed.splitlines())


def test_numbers_that_are_no_shares_are_shown_as_numbers() -> None:
    number = policy_scores(share=False, **CHANGED)
    text = as_text(comparison_table(None, number), 90)
    assert "0.750" in text and "75.0%" not in text and "+0.500" in text
    both = as_text(comparison_table(started(), number), 90)
    line = next(line for line in both.splitlines() if "true metric (json)" in line)
    assert line.split()[-3:] == ["0.250", "0.750", "+0.500"], "a share beside it is one only by chance"


def test_a_fall_has_its_sign() -> None:
    fallen = policy_scores(**{**CHANGED, "change": -0.2, "change_interval": (-0.5, 0.1)})
    assert "-50 to +10" in as_text(comparison_table(None, fallen), 90)


def test_what_no_reward_has_judged_is_a_dash() -> None:
    """All answers skipped: no `nan`, and no interval of nothing."""
    nothing = policy_scores(true_reward=math.nan, true_reward_interval=(math.nan, math.nan), share=False)
    text = as_text(comparison_table(nothing, nothing), 90)
    line = next(line for line in text.splitlines() if "true metric (json)" in line)
    assert line.split()[-2:] == ["–", "–"] and "nan" not in text


def test_a_runs_metrics_and_its_card() -> None:
    metrics = {"before": started().as_dict(), "after": policy_scores(**CHANGED, warnings=["look"]).as_dict()}
    assert comparison(metrics)
    card = metrics_markdown(metrics)
    assert "| true metric (json) | 25.0% | 75.0% | +50 points |" in card and "**Warning:** look" in card
