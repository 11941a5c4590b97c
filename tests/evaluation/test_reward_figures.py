"""Figures of rewards against plain loops: accuracy, calibration, length, parts, the best of n."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from alignkit.evaluation import reward_figures
from alignkit.evaluation.calibration import (
    calibration_error,
    draw_reliability,
    reliability,
    reliability_text,
    sigmoid,
)
from alignkit.evaluation.rewardbench import SECTIONS, sections
from alignkit.evaluation.rewarded import Part, RewardScores
from alignkit.evaluation.stored import stored

RNG = np.random.default_rng(0)


def pairs(count: int, slope: float = 1.0) -> dict:
    chosen, rejected = RNG.normal(0.5, 1, count), RNG.normal(-0.5, 1, count)
    lengths = RNG.integers(5, 50, (count, 2)).astype(float)
    return reward_figures.of_pairs(chosen, rejected, lengths[:, 0], lengths[:, 1])


def test_calibration_error_is_that_of_a_loop() -> None:
    chances = RNG.random(500)
    bins = reliability(chances)
    sure = [max(p, 1 - p) for p in chances]
    right = [p > 0.5 for p in chances]
    expected = 0.0
    for at in range(10):
        low, high = 0.5 + at * 0.05, 0.5 + (at + 1) * 0.05
        mine = [i for i in range(500) if low <= sure[i] < high or (at == 9 and sure[i] == 1)]
        if mine:
            gap = np.mean([right[i] for i in mine]) - np.mean([sure[i] for i in mine])
            expected += abs(gap) * len(mine) / 500
    assert calibration_error(bins) == pytest.approx(expected, abs=1e-12)
    assert sum(one.count for one in bins) == 500


def test_rewards_that_are_as_sure_as_right_have_no_error() -> None:
    """Outcomes drawn by the probabilities themselves; rewards ten times as large are far too sure."""
    difference = RNG.normal(0, 2, 20_000)
    signs = np.where(RNG.random(20_000) < sigmoid(difference), 1, -1)
    honest, loud = (calibration_error(reliability(sigmoid(scale * signs * difference))) for scale in (1, 10))
    assert honest < 0.02 and loud > 0.15


def test_pairs_are_counted_as_a_person_would() -> None:
    chosen, rejected = np.array([1.0, 2.0, 0.0, 1.0]), np.array([0.0, 3.0, 0.0, -1.0])
    found = reward_figures.of_pairs(chosen, rejected, np.array([9.0, 3.0, 5.0, 2.0]), np.array([4.0, 7.0, 5.0, 6.0]))
    assert found["accuracy"] == 2.5 / 4 and found["margin"] == pytest.approx(0.5)
    assert found["longer_is_better"] == pytest.approx(1 / 3)
    assert found["longer_is_rewarded"] == pytest.approx(2 / 3)  # rows 1 and 2: the longer answer has more
    assert found["accuracy_where_shorter"] == 0.5
    both = np.corrcoef([1, -1, 0, 2, -1, 1, 0, -2], [5, -4, 0, -4, -5, 4, 0, 4])[0, 1]  # whichever comes first
    assert found["length_correlation"] == pytest.approx(both)
    assert found["rewards"]["chosen"].median == 1.0


def test_a_reward_of_length_is_warned_of() -> None:
    lengths = RNG.integers(5, 80, (200, 2)).astype(float)
    rewards = lengths / 20 + RNG.normal(0, 0.1, (200, 2))
    found = reward_figures.of_pairs(rewards[:, 0], rewards[:, 1], lengths[:, 0], lengths[:, 1])
    said = reward_figures.warnings(RewardScores(**found))
    assert any(
        "go with length" in one and "longer answers" in one and "where it is the shorter one" in one for one in said
    )
    assert any("not known to be better than chance" in one for one in said)
    honest = reward_figures.warnings(RewardScores(**pairs(400)))
    assert not any("length" in one or "chance" in one for one in honest)


def test_best_of_n_is_the_mean_over_all_choices() -> None:
    rewards = [RNG.normal(size=6), np.array([1.0, 1.0, 0.0, 2.0, 1.0])]
    scores = [RNG.normal(size=6), np.array([3.0, 5.0, 1.0, 4.0, 1.0])]
    found = {one.n: one for one in reward_figures.best_of(rewards, scores)}
    assert sorted(found) == [2, 4, 5]
    for n, one in found.items():
        picked, possible = [], []
        for r, s in zip(rewards, scores, strict=True):
            picks, tops = [], []
            for some in combinations(range(len(r)), n):
                top = max(r[i] for i in some)
                # Answers with one reward share their chances over all of them, in the choice or not.
                picks.append(np.mean([s[i] for i in range(len(r)) if r[i] == top]))
                tops.append(max(s[i] for i in some))
            picked.append(np.mean(picks) - s.mean())
            possible.append(np.mean(tops) - s.mean())
        assert one.lift == pytest.approx(np.mean(picked)) and one.possible == pytest.approx(np.mean(possible))
        assert one.lift_interval[0] <= one.lift <= one.lift_interval[1]


def test_labels_and_scores() -> None:
    wanted = np.array([True, False, True, False])
    found = reward_figures.of_labels(np.array([2.0, -1.0, -0.5, -2.0]), wanted, np.array([3.0, 3.0, 4.0, 5.0]))
    assert found["accuracy"] == 0.75 and found["area"] == 1.0
    scores = RNG.normal(size=50)
    same = reward_figures.of_scores(scores**3, scores, np.ones(50), predicted=scores + 2)
    assert (
        same["rank_correlation"] == pytest.approx(1) and same["correlation"] < 1 and same["error"] == pytest.approx(2)
    )
    assert same["length_correlation"] is None
    np.testing.assert_array_equal(reward_figures.ranks(np.array([3.0, 1.0, 3.0, 0.0])), [2.5, 1, 2.5, 0])


def test_rewardbench_is_weighted_as_published() -> None:
    parts = {name: Part(rows=10, accuracy=0.5) for subsets in SECTIONS.values() for name in subsets}
    parts["math-prm"] = Part(rows=447, accuracy=1.0)
    parts["alpacaeval-easy"] = Part(rows=100, accuracy=0.9)
    found = sections(parts)
    assert list(found) == ["Chat", "Chat Hard", "Safety", "Reasoning", "RewardBench"]
    assert found["Reasoning"] == pytest.approx(0.75)  # mathematics counts as much as the six languages
    assert found["Chat"] == pytest.approx((0.9 * 100 + 0.5 * (95 + 95 + 28 + 40)) / 358)
    assert found["RewardBench"] == pytest.approx((found["Chat"] + 0.5 + 0.5 + 0.75) / 4)
    del parts["donotanswer"]
    assert "RewardBench" not in sections(parts) and "Safety" in sections(parts)
    assert sections({"ours": Part(rows=1, accuracy=1.0)}) == {} == sections({})


def test_the_plot_as_text_and_as_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bins = reliability(np.array([0.9, 0.92, 0.6, 0.3]))
    lines = reliability_text(bins, width=10)
    assert lines[1].startswith("  60%–65%") and "100% of 1" in lines[1] and "0% of 1" in lines[2]
    assert lines[3].count("█") == 9 and lines[3].count("|") == 1
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    assert not draw_reliability(bins, tmp_path / "plot.png", "title")


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert draw_reliability(reliability(RNG.random(50)), tmp_path / "plot.png", "title")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_scores_come_back_from_a_manifest() -> None:
    import json

    found = pairs(40)
    best = reward_figures.best_of([np.array([1.0, 0.0])], [np.array([2.0, 1.0])])
    scores = RewardScores(**{**found, "sections": {"Chat": 0.5}}, loss=float("nan"), best_of=best, warnings=["w"])
    back = stored(json.loads(json.dumps(scores.as_dict())))
    assert isinstance(back, RewardScores) and back.as_dict() == scores.as_dict()
    assert back.best_of[0].lift_interval == (-np.inf, np.inf)
    names = [figure.name for figure in back.figures()]
    assert names[0] == "accuracy" and "lift of the best of 2" in names and "Chat" in names
