"""The closing table: every figure of every run on a hundred columns, with its interval where it has one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from alignkit.config.grid import Point
from alignkit.console.log import as_text
from alignkit.sweeps.entries import Comparison, Entry
from alignkit.sweeps.figures import Measure, compared, interval
from alignkit.sweeps.table import started_apart, table
from tests.evaluation.policy_scores import policy_scores
from tests.evaluation.policy_scores import started as started_scores
from tests.evaluation.preference_scores import drawn, preference_scores

LOSSES = ["sigmoid", "ipo", "simpo", "apo_zero_unpaired"]


def metrics(accuracy: float, **changes: Any) -> dict[str, Any]:
    before = preference_scores(accuracy=0.5, accuracy_interval=(0.45, 0.55), drawn=drawn(kl=0.0, win_rate=None))
    after = preference_scores(accuracy=accuracy, accuracy_interval=(accuracy - 0.04, accuracy + 0.04), **changes)
    return {
        "before": before.as_dict(),
        "after": after.as_dict(),
        "headline": {"name": "accuracy", "before": 0.5, "after": accuracy},
    }


def comparison_of(runs: list[dict[str, Any]]) -> Comparison:
    entries = [
        Entry(
            point=Point("dpo", (), {"dpo.loss": loss, "dpo.beta": "0.1"}),
            composed=SimpleNamespace(values={}),  # type: ignore[arg-type]
            state="done",
            run=Path(f"runs/dpo-3fa29c0{number}"),
            metrics=found,
        )
        for number, (loss, found) in enumerate(zip(LOSSES, runs, strict=True))
    ]
    return Comparison(entries=entries, measure=Measure("accuracy", "higher"), settled=True, winner=entries[2])


def test_preference_runs_side_by_side() -> None:
    text = as_text(table(comparison_of([metrics(0.6), metrics(0.65), metrics(0.7), metrics(0.62)])), 100)
    lines = text.splitlines()
    assert all(len(line.rstrip()) <= 100 for line in lines)
    heading = " ".join(" ".join(lines[:4]).split())
    for word in ("accuracy", "margin", "kl", "length", "chosen", "win", "loss", "beta", "run"):
        assert word in heading, word
    best = next(line for line in lines if line.startswith("best"))
    figures = ["0.7000", "0.4000", "4.000", "4.000", "88.00", "-120.0", "0.7000"]
    assert best.split() == ["best", "simpo", "0.1", *figures, "dpo-3fa29c02"]
    below = lines[lines.index(best) + 1].split()
    assert below == ["±0.040", "±1.0", "±0.10"]
    before = next(line for line in lines if line.startswith("before"))
    assert before.split()[1] == "0.5000"


def test_policies_side_by_side() -> None:
    def run(true: float, seconds: float) -> dict[str, Any]:
        interval = (true - 0.1, true + 0.1)
        after = policy_scores(true_reward=true, true_reward_interval=interval, change=true - 0.25)
        scores = {"before": started_scores().as_dict(), "after": after.as_dict(), "training": {"seconds": seconds}}
        return {**scores, "headline": {"name": "true_reward", "before": 0.25, "after": true}}

    comparison = comparison_of([run(0.6, 61.5), run(0.65, 90), run(0.7, 77), run(0.62, 50)])
    comparison.measure = Measure("true_reward", "higher")
    text = as_text(table(comparison), 100)
    assert all(len(line.rstrip()) <= 100 for line in text.splitlines())
    heading = " ".join(" ".join(text.splitlines()[:4]).split())
    for word in ("true", "reward", "change", "kl", "length", "training", "seconds"):
        assert word in heading, word
    lines = text.splitlines()
    best = next(line for line in lines if line.startswith("best"))
    assert best.split()[3:] == ["0.7000", "0.4500", "0.2000", "1.500", "30.00", "0.2500", "77.00", "dpo-3fa29c02"]
    below = lines[lines.index(best) + 1].split()
    assert below == ["±0.10", "±0.30", "±0.50"]
    before = next(line for line in lines if line.startswith("before"))
    assert before.split() == ["before", "0.2500", "-", "0.2000", "0.000", "60.00", "0.2500", "-"]


def test_a_figure_that_one_run_lacks_leaves_a_gap() -> None:
    text = as_text(table(comparison_of([metrics(0.6), metrics(0.65), metrics(0.7), metrics(0.62, drawn=None)])), 100)
    last = next(line for line in text.splitlines() if "dpo-3fa29c03" in line)
    assert last.split().count("-") == 3  # kl, length, win rate


def test_scores_say_what_is_worth_comparing() -> None:
    found = metrics(0.6)
    names = compared(Measure("accuracy", "higher"), found)
    assert names == ["accuracy", "margin", "log_ratio_margin", "kl", "length", "chosen_log_prob", "win_rate"]
    assert compared(Measure("kl_per_token", "lower"), found)[0] == "kl_per_token"
    assert interval("after.kl", found) == (3.0, 5.0) and interval("margin", found) is None
    assert interval("accuracy", {}) is None


def test_scores_that_the_points_did_not_share_before_are_named() -> None:
    alike, other = metrics(0.6), metrics(0.65)
    other["before"]["margin"] = -3.0
    other["before"]["chosen_log_prob"] = -7.0
    assert started_apart(comparison_of([alike] * 4)) == ""
    said = started_apart(comparison_of([alike, other, alike, alike]))
    assert said.startswith("no common score before: margin, chosen log prob (")
