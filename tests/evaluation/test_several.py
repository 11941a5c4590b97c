"""Several models in one table: scores, what is kept of the teacher's, size and speed."""

from __future__ import annotations

import re
from typing import Any

import pytest

from alignkit.evaluation.cost import Cost
from alignkit.evaluation.report import comparison, metrics_markdown
from alignkit.evaluation.scores import Graded, Scores
from alignkit.evaluation.several import kept, several_markdown, several_table


def scores(correct: int | None, loss: float, answer: str = "an answer") -> dict[str, Any]:
    graded = Graded(prompt="ask", reference="ref", answer=answer, correct=False, finished=True, where="row 1")
    return Scores(
        rows=50,
        labelled_tokens=900,
        loss=loss,
        perplexity=2.0,
        graded=0 if correct is None else 50,
        correct=correct or 0,
        answers=[graded],
    ).as_dict()


def cost(parameters: int, written: float) -> dict[str, Any]:
    return Cost(
        parameters=parameters, weight_bytes=2 * parameters, read_per_second=1000.0, written_per_second=written
    ).as_dict()


MODELS: dict[str, dict[str, Any]] = {
    "teacher": {"scores": scores(40, 0.1), "cost": cost(134_515_008, 10.04)},
    "student before": {"scores": scores(0, 9.0), "cost": None},
    "student after": {"scores": scores(30, 0.5), "cost": cost(81_413_568, 19.5)},
    "plain SFT": {"scores": scores(None, 0.7), "cost": cost(81_413_568, 19.5)},
}


def table(text: str) -> dict[str, list[str]]:
    """Lines of a Markdown table by their first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in rows}


def test_every_model_has_its_column_and_every_figure_its_line() -> None:
    found = table(several_markdown(MODELS))
    assert found["50 held-out rows"] == list(MODELS)
    assert found["loss"] == ["0.100", "9.000", "0.500", "0.700"]
    assert found["exact match"] == ["40 of 50", "0 of 50", "30 of 50", "–"]
    assert found["95% interval"][0] == "67–89%" and found["95% interval"][3] == ""
    assert found["of the teacher's exact match"] == ["", "0%", "75%", ""]
    assert found["parameters"] == ["134.5 M", "–", "81.4 M", "81.4 M"]
    assert found["weights in memory"] == ["269 MB", "–", "163 MB", "163 MB"]
    assert found["tokens written/s"] == ["10.0", "–", "19.5", "19.5"]


def test_nothing_is_kept_of_a_teacher_that_gets_nothing_right() -> None:
    assert kept(MODELS) == pytest.approx({"student before": 0.0, "student after": 0.75})
    assert kept({**MODELS, "teacher": {"scores": scores(0, 5.0), "cost": None}}) == {}
    assert kept({name: one for name, one in MODELS.items() if name != "teacher"}) == {}
    assert "of the teacher" not in several_markdown({"student after": MODELS["student after"]})


def test_a_cost_without_scores_is_a_table_too() -> None:
    found = table(several_markdown({"teacher": {"scores": None, "cost": cost(1_000_000, 5.0)}}))
    assert found["parameters"] == ["1.0 M"] and "loss" not in found


def rendered(parts: list[Any]) -> str:
    from rich.console import Console

    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    for part in parts:
        console.print(part)
    return console.export_text()


def test_the_terminal_and_the_card_show_them_in_place_of_before_and_after() -> None:
    before, after = scores(0, 9.0, "what it said before"), scores(30, 0.5, "what it says now")
    plain: dict[str, Any] = {"before": before, "after": after}
    for text in (rendered(comparison(plain | {"models": MODELS})), metrics_markdown(plain | {"models": MODELS})):
        assert "plain SFT" in text and "134.5 M" in text and "change" not in text
        assert "what it said before" in text and "what it says now" in text
        assert len(re.findall(r"^[| ]*exact match", text, re.MULTILINE)) == 1
    for text in (rendered(comparison(plain)), metrics_markdown(plain)):
        assert "change" in text and "plain SFT" not in text


def test_a_terminal_shows_what_the_card_shows() -> None:
    text = rendered([several_table(MODELS)])
    for cells in table(several_markdown(MODELS)).values():
        assert all(cell in text for cell in cells if "---" not in cell)
