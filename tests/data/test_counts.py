"""Counts that must be those of the rows that are trained and held out, and what is read of held-out sets."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from alignkit.config.sections import Data, DataSource
from alignkit.data.check import check
from alignkit.data.eyes.examine import examine
from alignkit.data.prepare import Prepared, prepare, prepare_held_out
from alignkit.errors import RequestError
from tests.tiny import build_tokenizer

TOKENIZER = build_tokenizer()


def chat(question: str, answer: str = "a") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


def half_too_long(tmp_path: Path) -> str:
    return write(tmp_path / "long.jsonl", [chat(f"q{n}", "a" * (300 if n % 2 else 1)) for n in range(20)])


def prepared(name: str = "", **options: Any) -> Prepared:
    return prepare(Data(name=name, max_length=64, overlength_limit=1.0, **options), TOKENIZER)


def test_a_generators_held_out_rows_are_of_its_held_out_split(tmp_path: Path) -> None:
    tickets = Data(name="generated:tickets", rows=8, holdout=3)
    found = prepare(tickets, TOKENIZER)
    scored = prepare_held_out(tickets, TOKENIZER).held_out
    chats = write(tmp_path / "rows.jsonl", [chat("q")] * 9)
    other = prepare(Data(name=chats, holdout=3, holdout_name="generated:tickets"), TOKENIZER).held_out
    for rows in (found.held_out, scored, other):
        assert len(rows) == 3 and all(row.where.startswith("tickets heldout row") for row in rows)
    assert not any("held-out rows too" in line for line in found.report.lines())


def test_a_split_that_a_generator_has_not_is_named() -> None:
    with pytest.raises(RequestError, match=r"data.split: generated:tickets has no split `test`.*train, heldout"):
        prepared("generated:tickets", rows=8, split="test")


def test_rows_that_were_dropped_take_no_place(tmp_path: Path) -> None:
    name = half_too_long(tmp_path)
    found = prepared(name, rows=6, holdout=0)
    assert len(found.train) == 6
    assert "using the first 6 of 10 training rows (data.rows)" in found.report.notes


def test_rows_that_were_dropped_count_for_no_share(tmp_path: Path) -> None:
    other = write(tmp_path / "other.jsonl", [chat(f"other {n}") for n in range(20)])
    sources = [DataSource(name=half_too_long(tmp_path), weight=1), DataSource(name=other, weight=1)]
    found = prepared(sources=sources, holdout=0)
    assert sum("other.jsonl" in row.where for row in found.train) == 10
    assert len(found.train) == 20
    limited = prepared(sources=[DataSource(name=half_too_long(tmp_path), limit=5)], holdout=0)
    assert len(limited.train) == 5


def test_a_dropped_row_is_counted_where_it_was_lost(tmp_path: Path) -> None:
    found = prepared(half_too_long(tmp_path), holdout=10)
    report = found.report
    lost, apart = sum(report.dropped.values()), sum(report.held_out_dropped.values())
    assert (lost + apart, report.kept + lost, report.held_out) == (10, 10, 10)
    assert len(found.held_out) == 10 - apart


def test_faults_of_a_held_out_set_are_counted_and_kept(tmp_path: Path) -> None:
    name = write(tmp_path / "rows.jsonl", [chat(f"q{n}") for n in range(9)])
    apart = write(tmp_path / "apart.jsonl", [chat("x"), "{broken", chat("y", ""), chat("z")])
    found = prepared(name, holdout=5, holdout_name=apart, on_error="skip")
    assert (len(found.train), len(found.held_out), found.report.skipped) == (9, 2, 2)
    assert any("held-out rows: read 4 rows of apart.jsonl as chat messages" in line for line in found.report.lines())
    [source] = found.skipped
    source.write_skipped(tmp_path / "skipped.jsonl")
    wheres = [json.loads(line)["where"] for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert wheres == [f"{apart} line 2", f"{apart} line 3, turn 2"]
    with pytest.raises(RequestError, match=r"apart.jsonl line 2"):
        prepared(name, holdout=5, holdout_name=apart)


def test_check_reads_a_held_out_set_as_training_does(tmp_path: Path) -> None:
    rows = [{"ask": f"q{n}", "say": "a"} for n in range(9)]
    name, apart = write(tmp_path / "rows.jsonl", rows), write(tmp_path / "apart.jsonl", rows[:4])
    section = Data(name=name, holdout_name=apart, holdout=4, columns={"question": "ask", "answer": "say"})
    assert check(section) == []
    assert len(prepare(section, TOKENIZER).held_out) == 4


def test_files_that_cannot_be_read_on_are_said_beside_the_count(tmp_path: Path) -> None:
    rows = [chat(f"q{n}") for n in range(400)]
    whole = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    folder = tmp_path / "rows"
    folder.mkdir()
    packed = gzip.compress(whole)
    (folder / "a.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    (folder / "b.json").write_text(json.dumps(rows)[:-100])
    (folder / "c.csv").write_text('messages\n"never closed\nx\nx\n')
    (folder / "d.jsonl").write_text(json.dumps(chat("q")) + "\n{broken\n")
    said = "3 files could not be read to their end, or at all: how many rows are lost with them is not known"
    section = Data(name=str(folder), on_error="skip")
    report = prepare(section, TOKENIZER).report
    assert report.skipped == 4 and said in report.notes
    assert said in examine(section, None)[0].notes


def test_a_hub_name_is_the_same_with_and_without_its_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, config: str | None, *, split: str, revision: str | None) -> Any:
        asked.append((name, config, split, revision))
        return datasets.Dataset.from_list([chat(f"{split} {number}") for number in range(9)])

    import datasets

    from alignkit.data import fingerprint

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(fingerprint, "hub_commit", lambda name, revision: f"{name} {revision}")
    section = Data(name="owner/name", config="main", revision="v1", holdout_name="hub:owner/name", holdout=3)
    assert len(prepare(section, TOKENIZER).held_out) == 3
    assert asked == [("owner/name", "main", split, "v1") for split in ("train", "test")]


@pytest.mark.parametrize("weight", [-1, 1e300, "much"])
def test_weights_that_are_none(tmp_path: Path, weight: object) -> None:
    row = chat("q")
    row["messages"][1]["weight"] = weight
    with pytest.raises(RequestError, match=r"turn 2 of `messages`: has `.*` as its `weight`"):
        prepared(write(tmp_path / "rows.jsonl", [chat("p"), row]), holdout=0)
