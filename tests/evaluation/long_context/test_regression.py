"""What stretching cost is said beyond 2%, and not below."""

from __future__ import annotations

import math

import pytest

from alignkit.evaluation.long_context.regression import compared, regressions
from tests.evaluation.long_context.making import long_scores, short_scores


def test_a_stretch_that_cost_nothing() -> None:
    before = long_scores({128: 5.0, 256: 4.8, 512: 40.0}, window=256, short=short_scores(3.0, 40))
    after = long_scores({128: 5.09, 256: 4.7, 512: 4.6}, window=512, short=short_scores(3.05, 39))
    assert regressions(before, after) == []
    assert compared(before, after) == after


def test_perplexity_that_rose_where_it_was_good() -> None:
    before = long_scores({128: 5.0, 256: 4.8, 512: 40.0}, window=256)
    after = long_scores({128: 5.11, 256: 5.2, 512: 5.1}, window=512)
    (said,) = regressions(before, after)
    assert "at 256 tokens rose from 4.8 to 5.2" in said and "2%" in said
    assert compared(before, after).warnings == [said]
    (said,) = regressions(before, after, within=128)
    assert "at 128 tokens rose from 5 to 5.11" in said


@pytest.mark.parametrize(
    ("perplexity", "correct", "said"),
    [(3.07, 40, "perplexity of the short rows rose from 3 to 3.07"), (2.9, 38, "exact match of the short rows fell")],
)
def test_short_rows(perplexity: float, correct: int, said: str) -> None:
    before = long_scores({128: 5.0}, window=256, short=short_scores(3.0, 40))
    found = regressions(before, long_scores({128: 5.0}, window=512, short=short_scores(perplexity, correct)))
    assert len(found) == 1 and said in found[0]


def test_a_curve_that_still_rises() -> None:
    before = long_scores({256: 4.8, 512: 40.0, 1024: 90.0}, window=256)
    after = long_scores({256: 4.8, 512: 4.95, 1024: 50.0}, window=512)  # beyond the new window anything may be
    (said,) = regressions(before, after)
    assert "rises with length: 4.8 at 256 tokens, 4.95 at 512" in said
    assert regressions(before, long_scores({256: 4.8, 512: 4.85, 1024: 50.0}, window=512)) == []


def test_numbers_that_went_wrong_are_worse() -> None:
    before = long_scores({128: 5.0}, window=256, short=short_scores(3.0, 40))
    after = long_scores({128: math.nan}, window=512, short=short_scores(math.nan, 40))
    assert len(regressions(before, after)) == 2
