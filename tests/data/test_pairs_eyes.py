"""Comparisons looked at before training: what preview, stats and check say of pairs and of feedback."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignkit.config.sections import Data, DataSource
from alignkit.data.eyes.examine import examine
from alignkit.data.eyes.preview import preview
from alignkit.data.eyes.screen import Style, lines
from alignkit.data.eyes.stats import Stats, gather
from alignkit.data.eyes.tables import tables
from alignkit.data.eyes.walk import kinds
from tests.tiny import build_tokenizer

TOKENIZER = build_tokenizer()


def written(folder: Path, rows: list[dict[str, Any]]) -> str:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def pair(prompt: str, chosen: str, rejected: str, **more: Any) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": prompt}], "chosen": chosen, "rejected": rejected, **more}


def stats(folder: Path, rows: list[dict[str, Any]], **options: Any) -> Stats:
    [found] = gather(Data(name=written(folder, rows), **{"max_length": 64, **options}), TOKENIZER)
    return found


def cells(found: Stats) -> dict[str, list[str]]:
    return {row[0]: row[1:] for table in tables(found) if table.heading in ("rows", "per row") for row in table.rows}


def test_stats_say_how_long_the_answers_are_and_which_is_longer(tmp_path: Path) -> None:
    rows = [pair("q", "four", "no"), pair("q", "longer", "no"), pair("q", "a", "no"), pair("r", "same", "full")]
    found = stats(tmp_path, rows)
    assert list(found.answers["chosen"]) == [5, 7, 2, 5] and list(found.answers["rejected"]) == [3, 3, 3, 5]
    shown = cells(found)
    assert shown["chosen is longer"][:2] == ["2", "50%"]
    prompt = len(TOKENIZER.apply_chat_template(rows[0]["prompt"], add_generation_prompt=True, return_dict=False))
    assert shown["shared tokens"][0] == f"{4 * prompt}"
    assert shown["answer, chosen"][0] == "2" and shown["answer, rejected"][-1] == "5"
    plain = found.as_dict()
    assert plain["chosen_longer"] == 2 and plain["shared_tokens"] == 4 * prompt and plain["answer_tokens"]["chosen"]


def test_stats_of_feedback_tell_the_wanted_from_the_others(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completion": "a" * n, "label": n > 2} for n in range(1, 5)]
    found = stats(tmp_path, rows)
    assert {name: list(lengths) for name, lengths in found.answers.items()} == {"not wanted": [2, 3], "wanted": [4, 5]}
    assert found.as_dict()["chosen_longer"] is None and "shared tokens" not in cells(found)
    assert found.labels == {"wanted": 2, "not wanted": 2}


def test_a_pair_that_is_too_long_counts_once_of_the_pairs(tmp_path: Path) -> None:
    rows = [pair("q", "good", "bad"), pair("q", "g" * 90, "bad"), pair("q", "g" * 90, "b" * 90), pair("q", "a", "b")]
    found = stats(tmp_path, rows)
    assert cells(found)["dropped"] == ["2", "50%", "longer than data.max_length=64"]
    assert any("2 of 4 rows (50%) have more than 64 tokens" in note for note in found.notes)
    assert any("data.overlength=truncate, which cuts prompts or answers" in note for note in found.notes)


def test_check_finds_what_is_wrong_with_pairs(tmp_path: Path) -> None:
    rows = [
        pair("q", "good", "bad", chosen_score=1, rejected_score=1),
        pair("q", "same", "same"),
        pair("q", "good", ""),
        pair("q", "good", "bad", chosen_score=1, rejected_score=2),
    ]
    [found] = examine(Data(name=written(tmp_path, rows), max_length=64), TOKENIZER)
    assert (found.read, found.usable, found.faults) == (4, 2, 2)
    said = "\n".join(found.lines(64, "drop"))
    for part in ("say the same", "is an empty answer", "1 pair whose answers have the same score"):
        assert part in said
    assert "1 pair whose chosen answer has the lower score" in said


def test_check_says_what_cutting_would_leave_out(tmp_path: Path) -> None:
    talk = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(("e" * 80, "f", "last"))]
    rows = [pair("q", "good", "bad"), {"prompt": talk, "chosen": "good", "rejected": "bad"}, pair("q", "g" * 90, "bad")]
    section = Data(name=written(tmp_path, rows), max_length=64, overlength="truncate", overlength_limit=1.0)
    [found] = examine(section, TOKENIZER)
    said = "\n".join(found.lines(64, "truncate"))
    assert "2 longer than data.max_length=64" in said
    assert "1 of them would be left out all the same: the last question with an answer is longer" in said
    [refused] = examine(replace(section, overlength_limit=0.1), TOKENIZER)
    assert refused.refused is not None and "raise data.overlength_limit." in str(refused.refused)
    assert "write data.overlength" not in str(refused.refused)  # it is written already


def test_preview_shows_both_answers_of_a_shortened_pair(tmp_path: Path) -> None:
    talk = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(("e" * 80, "f", "last"))]
    name = written(tmp_path, [{"prompt": talk, "chosen": "good", "rejected": "bad", "chosen_score": 2}])
    [look] = preview(Data(name=name, max_length=64, overlength="truncate"), TOKENIZER).looks
    assert [view.name for view in look.views] == ["chosen", "rejected"]
    for view, answer in zip(look.views, ("good", "bad"), strict=True):
        text = "".join(piece.text for turn in view.turns for piece in turn.pieces)
        assert "last" in text and "eee" not in text
        trained = "".join(piece.text for turn in view.turns for piece in turn.pieces if piece.trained)
        assert trained == f"{answer}<|im_end|>"
    assert any(fact.endswith("data.max_length is 64: cut") for fact in look.facts) and "chosen scored 2" in look.facts


def test_the_prompt_of_a_pair_is_shown_once(tmp_path: Path) -> None:
    talk = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(("first", "then", "last"))]
    name = written(tmp_path, [{"prompt": talk, "chosen": "good", "rejected": "bad"}])
    for tokenizer in (TOKENIZER, None):
        [look] = preview(Data(name=name, max_length=128), tokenizer).looks
        style = Style(colour=False, tokens=tokenizer is not None)
        shown = "\n".join(lines(look, style))
        assert shown.count("then") == 1 and "good" in shown and "bad" in shown
        assert "3 turns as above" in shown
        full = "\n".join(lines(look, replace(style, full=True)))
        assert full.count("then") == 2 and "as above" not in full


def test_what_rows_are_is_known_from_the_first_of_each_source(tmp_path: Path) -> None:
    pairs = written(tmp_path, [{"unknown": "q"}, pair("q", "good", "bad")])
    (tmp_path / "chats.jsonl").write_text(json.dumps({"prompt": "q", "completion": "a"}) + "\n")
    assert kinds(Data(name=pairs)) == {"preference"}
    both = [DataSource(name=pairs), DataSource(name=str(tmp_path / "chats.jsonl"))]
    assert kinds(Data(name="", sources=both)) == {"preference", "demonstration"}
