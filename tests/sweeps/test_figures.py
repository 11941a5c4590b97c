"""Which figure decides, which way is better, and what a table shows of a run."""

from __future__ import annotations

import math
from typing import Any

import pytest

from alignkit.errors import RequestError
from alignkit.sweeps.figures import Measure, compared, direction, find, flat, headline_name, shown, started

SCORED: dict[str, Any] = {
    "before": {"rows": 9, "loss": 3.0, "exact_match": None},
    "after": {"rows": 9, "loss": 2.0, "perplexity": "inf", "exact_match": None, "seconds": 1.5, "answers": [1.0]},
    "headline": {"name": "loss", "before": 3.0, "after": 2.0},
    "training": {"loss_last": 1.0, "peak_memory_bytes": 10, "done": True},
    "parts": {"a": {"length": 5.0}, "b": {"length": 6.0}},
}
PREFERENCES: dict[str, Any] = {
    "after": {"accuracy": 0.7, "margin": 1.5, "kl": 0.25, "length": 80.0, "pairs": 500, "chosen_logprob": -40.0},
    "headline": {"accuracy": 0.7, "win_rate": 0.55},
}


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("loss", "lower"),
        ("training.loss_last", "lower"),
        ("after.perplexity", "lower"),
        ("kl", "lower"),
        ("exact_match", "higher"),
        ("preference accuracy", "higher"),
        ("win_rate", "higher"),
        ("reward_loss", "lower"),
        ("error_rate", "lower"),
        ("length", None),
        ("rate", None),
        ("glossary", None),
        ("accuracy.length", None),
    ],
)
def test_which_way_is_better(name: str, better: str | None) -> None:
    assert direction(name) == better


@pytest.mark.parametrize(
    ("text", "name", "better"),
    [
        ("loss", "loss", "lower"),
        ("max:length", "length", "higher"),
        ("min:accuracy", "accuracy", "lower"),
        ("training.loss_last", "training.loss_last", "lower"),
    ],
)
def test_by_is_read(text: str, name: str, better: str) -> None:
    assert Measure.read(text) == Measure(name, better)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["length", "max:", "least:length", ""])
def test_a_direction_that_nobody_knows_is_asked_for(text: str) -> None:
    with pytest.raises(RequestError, match=r"not known of it\. Write --by max:"):
        Measure.read(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss", 2.0),
        ("before.loss", 3.0),
        ("perplexity", math.inf),
        ("training.loss_last", 1.0),
        ("peak_memory_bytes", 10.0),
        ("parts.b.length", 6.0),
        ("length", None),
        ("exact_match", None),
        ("answers", None),
        ("done", None),
    ],
)
def test_a_figure_is_found_by_name_or_place(name: str, value: float | None) -> None:
    assert find(name, SCORED) == value


def test_the_headline_is_what_is_compared() -> None:
    assert Measure().settled(SCORED) == Measure("loss", "lower")
    assert Measure().settled(PREFERENCES) == Measure("accuracy", "higher")
    alone = {"headline": {"name": "energy", "before": None, "after": 0.9}}
    assert Measure().settled(alone).value(alone) == 0.9
    assert headline_name({"headline": {"name": "loss", "before": 1.0, "after": None}}) == ""


@pytest.mark.parametrize(
    ("measure", "metrics", "said"),
    [
        (Measure(), {}, "was not scored"),
        (Measure(), {"headline": None, "training": {"loss_last": 1.0}}, "with --by: training.loss_last."),
        (Measure(), {"headline": {"name": "oddness", "after": 1.0}}, "whether high or low is better is not known"),
        (Measure("accuracy", "higher"), SCORED, "no such figure. There are: rows, loss, perplexity, seconds, training"),
        (Measure("length", "lower"), SCORED, "several such figures. There are: parts.a.length, parts.b.length"),
    ],
)
def test_a_first_run_that_cannot_be_compared(measure: Measure, metrics: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        measure.settled(metrics)
    assert said in str(caught.value)


def test_better_is_truly_better() -> None:
    low, high = Measure("loss", "lower"), Measure("win", "higher")
    assert low.prefers(1, 2) and not low.prefers(2, 1) and not low.prefers(1, 1)
    assert high.prefers(2, 1) and not high.prefers(1, 2) and not high.prefers(1, 1)


def test_a_table_shows_scores_and_no_counts() -> None:
    assert compared(Measure("loss", "lower"), SCORED) == ["loss", "perplexity"]
    assert compared(Measure("after.loss", "lower"), SCORED) == ["after.loss", "perplexity"]
    assert compared(Measure("training.loss_last", "lower"), SCORED) == ["training.loss_last", "loss", "perplexity"]
    assert compared(Measure("kl", "lower"), PREFERENCES) == [
        "kl",
        "accuracy",
        "margin",
        "length",
        "chosen_logprob",
        "win_rate",
    ]


def test_scores_may_name_figures_of_the_run_by_their_place() -> None:
    found = {
        "after": {"true_reward": 0.5, "kl": 1.0, "rows": 3, "compare": ["true_reward", "training.seconds", "no.such"]},
        "training": {"seconds": 12, "steps": 3},
    }
    assert compared(Measure("true_reward", "higher"), found) == ["true_reward", "training.seconds"]
    assert find("training.seconds", found) == 12 and started("training.seconds", found) is None


def test_numbers() -> None:
    assert math.isnan(flat({"a": {"b": "nan"}})["a.b"])
    assert [shown(value) for value in (None, 5.58, 265.0, 1.2e-5, math.inf)] == [
        "-",
        "5.580",
        "265.0",
        "1.200e-05",
        "inf",
    ]


def test_what_a_run_started_from() -> None:
    assert started("loss", SCORED) == started("after.loss", SCORED) == 3.0
    assert started("loss", {"before": None, "headline": {"name": "loss", "before": 2.5, "after": 2.0}}) == 2.5
    assert started("perplexity", SCORED) is None and started("win_rate", PREFERENCES) is None
