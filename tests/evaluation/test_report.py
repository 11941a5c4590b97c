"""What a person sees: every figure there, nothing too wide, nothing that steers the terminal."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from alignkit.console.log import as_text
from alignkit.evaluation.report import (
    comparison,
    comparison_markdown,
    comparison_table,
    metrics_markdown,
    readable,
    shortened,
)
from alignkit.evaluation.scores import Graded, Scores

LONG = "word " * 400 + "THE END"
QUESTION = Graded(
    prompt="My blender leaks", reference='{"problem":"leak"}', answer=LONG, correct=False, finished=False, where="x"
)
BEFORE = Scores(rows=100, labelled_tokens=900, loss=2.7312, perplexity=15.35, graded=100, correct=3, answers=[QUESTION])
AFTER = Scores(
    rows=100,
    labelled_tokens=900,
    loss=0.0412,
    perplexity=1.042,
    graded=100,
    correct=87,
    answers=[replace(QUESTION, answer='{"problem":"leak"}', correct=True, finished=True)],
)


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_before_and_after_side_by_side(columns: int) -> None:
    text = as_text(comparison_table(BEFORE, AFTER), columns)
    assert all(len(line) <= columns for line in text.splitlines())
    lines = {line.split("  ")[0].strip(): line for line in text.splitlines()}
    assert "3 of 100" in lines["exact match"] and "87 of 100" in lines["exact match"]
    assert "+84 points" in lines["exact match"]
    assert "2.731" in lines["loss"] and "0.041" in lines["loss"] and "-2.690" in lines["loss"]
    assert "15.35" in lines["perplexity"] and "÷ 14.73" in lines["perplexity"]
    assert "My blender leaks" in text
    assert "✗ word" in text and '✓ {"problem":"leak"}' in text
    assert "THE END" in text, "the end of a long answer is shown too"
    assert "stopped at the token limit" in " ".join(text.split())
    assert len(text) < 3000


@pytest.mark.parametrize("pair", [(None, AFTER), (AFTER, None)])
def test_one_model_has_one_column(pair: tuple[Scores | None, Scores | None]) -> None:
    text = as_text(comparison_table(*pair), 80)
    assert "87 of 100" in text and "79–92%" in text
    assert "change" not in text and "before" not in text


def test_without_exact_match_there_is_no_such_line() -> None:
    plain = [replace(scores, graded=0, correct=0) for scores in (BEFORE, AFTER)]
    assert "exact match" not in as_text(comparison_table(plain[0], plain[1]))
    mixed = as_text(comparison_table(plain[0], AFTER))
    assert "87 of 100" in mixed and "points" not in mixed


def test_figures_that_went_wrong_are_shown_as_they_are() -> None:
    broken = replace(AFTER, loss=math.nan, perplexity=math.nan)
    text = as_text(comparison_table(replace(BEFORE, loss=900.0, perplexity=math.inf), broken))
    assert "nan" in text and "inf" in text


def test_from_a_runs_metrics() -> None:
    metrics = {"before": BEFORE.as_dict(), "after": AFTER.as_dict()}
    assert "\n".join(as_text(part) for part in comparison(metrics)) == as_text(comparison_table(BEFORE, AFTER))
    assert metrics_markdown(metrics) == comparison_markdown(BEFORE, AFTER)
    assert comparison({"before": None, "after": None}) == []
    assert metrics_markdown({}) == ""


def test_markdown_is_a_table_and_fences_hold() -> None:
    tricky = replace(AFTER, answers=[replace(QUESTION, answer="```\n| not | a table |\n````")])
    text = comparison_markdown(BEFORE, tricky)
    rows = [line for line in text.splitlines() if line.startswith("| ") and "not" not in line]
    assert {line.count("|") for line in rows} == {5}
    assert "| exact match | 3 of 100 | 87 of 100 | +84 points |" in text
    assert "`````\n```\n| not | a table |\n````" in text


def test_a_model_cannot_steer_the_terminal() -> None:
    hostile = "red \x1b[31m \r\b bell \x07 \x9b and \u202e turned"
    assert not set("\x1b\r\b\x07\x9b\u202e") & set(readable(hostile))
    assert readable("tab\tline\n👩‍👩‍👧 ok") == "tab\tline\n👩‍👩‍👧 ok"
    text = as_text(comparison_table(None, replace(AFTER, answers=[replace(QUESTION, answer=hostile, prompt=hostile)])))
    assert "\x1b" not in text and "\x07" not in text


def test_markup_in_an_answer_is_text() -> None:
    marked = replace(AFTER, answers=[replace(QUESTION, answer="[bold]no[/bold] [/oops]")])
    assert "[bold]no[/bold] [/oops]" in as_text(comparison_table(None, marked))


def test_shortened_keeps_both_ends() -> None:
    assert shortened("short", 10) == "short"
    cut = shortened("a" * 50 + "b" * 50, 30)
    assert len(cut) <= 30 and cut.startswith("aaa") and cut.endswith("bbb")
