"""Scores survive JSON, and the interval is the textbook's."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.evaluation.scores import Graded, Scores, headline, wilson


def some_scores(**changes: object) -> Scores:
    answer = Graded(prompt="q", reference="r", answer="a", correct=False, finished=True, where="file.jsonl line 1")
    values = {"rows": 10, "labelled_tokens": 50, "loss": 2.0, "perplexity": 7.389, "graded": 10, "correct": 3}
    return Scores(**{**values, "answers": [answer], "seconds": 1.5, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", [2.0, 1000.0, math.inf])
def test_json_and_back(loss: float) -> None:
    scores = some_scores(loss=loss, perplexity=math.inf if loss > 700 else math.exp(loss))
    text = json.dumps(scores.as_dict(), allow_nan=False)  # raises on what is no JSON
    assert Scores.from_dict(json.loads(text)) == scores


def test_nan_is_valid_json_too() -> None:
    text = json.dumps(some_scores(loss=math.nan, perplexity=math.nan).as_dict(), allow_nan=False)
    assert math.isnan(Scores.from_dict(json.loads(text)).loss)


def test_nothing_graded_is_none_and_not_zero() -> None:
    scores = some_scores(graded=0, correct=0)
    assert scores.exact_match is None
    assert scores.as_dict()["exact_match"] is None
    assert scores.as_dict()["exact_match_interval"] is None


def test_wilson_against_published_values() -> None:
    # Newcombe 1998, table I, method 3 (score without continuity correction).
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    with pytest.raises(ValueError, match="at least one"):
        wilson(0, 0)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_mirrors(counts: tuple[int, int]) -> None:
    k, n = counts
    low, high = wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1 and low < high
    assert wilson(n - k, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_headline_takes_exact_match_only_where_both_have_it() -> None:
    before, after = some_scores(), some_scores(correct=9)
    assert headline(before, after) == {"name": "exact_match", "before": 0.3, "after": 0.9}
    assert headline(some_scores(graded=0, correct=0), after) == {"name": "loss", "before": 2.0, "after": 2.0}
    assert headline(None, after) == {"name": "exact_match", "before": None, "after": 0.9}
    assert headline(None, None) is None
