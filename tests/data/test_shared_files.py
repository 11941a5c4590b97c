"""Real files that lie beside the repository on the project's machines; skipped elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignkit.config.sections import Data
from alignkit.data.check import check
from alignkit.data.prepare import prepare
from tests.tiny import build_tokenizer

FOLDER = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the shared data files are not here")


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("sft_chat.jsonl", {}, "read 800 rows of sft_chat.jsonl as chat messages (column messages)"),
        ("math_gsm8k.jsonl", {}, "question and answer (columns prompt, solution, answer)"),
        ("movie_reviews.jsonl", {"overlength": "split"}, "raw text (column text; ignored: label)"),
        ("long_text_shakespeare.txt", {"overlength": "split"}, "read 1 row of long_text_shakespeare.txt as raw text"),
    ],
)
def test_files_to_learn_from(name, options, said):
    section = Data(name=str(FOLDER / name), max_length=8192, rows=40, **options)
    assert check(section) == []
    prepared = prepare(section, build_tokenizer(), held_out_rows=3)
    assert said in prepared.report.lines()[0]
    assert len(prepared.train) == 40
    if name.startswith("math"):
        assert all(row.checkable and row.reference.replace(",", "").isdigit() for row in prepared.held_out)


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("preference_helpful.jsonl", 240, "→ the chosen answers"),
        ("preference_hh_harmless.jsonl", 1500, "→ the chosen answers"),
        ("unpaired_feedback.jsonl", 125, "→ the answers that were wanted"),
    ],
)
def test_files_of_judged_answers_give_the_good_ones(name, rows, said):
    section = Data(name=str(FOLDER / name), max_length=8192, holdout=0)
    assert check(section) == []
    report = prepare(section, build_tokenizer()).report
    assert said in report.lines()[0]
    assert report.kept + sum(report.dropped.values()) == rows
