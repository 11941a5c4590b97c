"""From a data section to rows: what is held out, what is too long, and that every loss is counted."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.config.sections import Data, DataSource
from alignkit.data.encoding.lengths import pieces
from alignkit.data.encoding.tokenizing import Encoder, prompt_ids
from alignkit.data.mixing.holdout import choose, wanted
from alignkit.data.prepare import prepare, prepare_held_out
from alignkit.data.rows import Encoded
from alignkit.errors import RequestError
from tests.data.templates import STRIPS_THINKING, decode_trained, merging_tokenizer
from tests.tiny import CHATML, build_tokenizer

TOKENIZER = build_tokenizer()


def chat(*texts: str, **more) -> dict:
    return {"messages": [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(texts)], **more}


@pytest.fixture
def write(tmp_path):
    def write(rows, name="rows.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


def text_of(row) -> str:
    return TOKENIZER.decode(row.input_ids)


# --- what is held out ---------------------------------------------------------------------------------------------


def test_held_out_rows_survive_reordering_and_other_columns(write):
    rows = [chat(f"q{n}", f"a{n}") for n in range(60)]
    shuffled = [{"id": n, **row} for n, row in enumerate(random.Random(1).sample(rows, 60))]
    first = prepare(Data(name=write(rows), holdout=7), TOKENIZER)
    second = prepare(Data(name=write(shuffled, "b.jsonl"), holdout=7), TOKENIZER)
    assert [text_of(row) for row in first.held_out] == [text_of(row) for row in second.held_out]
    assert len(first.held_out) == 7
    assert {text_of(row) for row in first.train} == {text_of(row) for row in second.train}
    assert len(first.train) == 53
    assert first.report.held_out == 7


def test_identical_rows_go_to_the_same_side(write):
    rows = [chat(f"q{n % 20}", "a") for n in range(100)]
    prepared = prepare(Data(name=write(rows), holdout=0.2), TOKENIZER)
    train, held = {text_of(r) for r in prepared.train}, {text_of(r) for r in prepared.held_out}
    assert not train & held
    assert len(prepared.held_out) == 20
    assert len(held) == 4


@given(st.lists(st.binary(min_size=1, max_size=1), max_size=30), st.integers(0, 40))
def test_choosing_takes_all_of_a_kind_or_none(hashes, count):
    chosen = choose(hashes, count)
    taken = {hashes[i] for i in chosen}
    assert len(set(chosen)) == len(chosen) >= min(count, len(hashes))
    assert sorted(chosen) == [i for i, h in enumerate(hashes) if h in taken]
    assert choose(hashes, max(0, count - 1)) == chosen[: len(choose(hashes, max(0, count - 1)))]


def test_counts_and_shares():
    assert [wanted(0, 50), wanted(3, 50), wanted(0.1, 50), wanted(0.001, 50), wanted(0.0, 50)] == [0, 3, 5, 1, 0]


def test_holding_out_everything_is_refused(write):
    with pytest.raises(RequestError, match=r"data\.holdout: 30 of 20 rows"):
        prepare(Data(name=write([chat(f"q{n}", "a") for n in range(20)]), holdout=30), TOKENIZER)


def test_held_out_data_of_its_own_and_rows_in_both(write):
    train = write([chat(f"q{n}", "a") for n in range(10)])
    other = write([chat(f"q{n}", "a") for n in range(8, 28)], "other.jsonl")
    prepared = prepare(Data(name=train, holdout_name=other, holdout=0.5), TOKENIZER)
    assert len(prepared.train) == 10
    assert len(prepared.held_out) == 10
    everything = prepare(Data(name=train, holdout_name=other, holdout=20), TOKENIZER)
    assert any("2 training rows stand among the held-out rows" in line for line in everything.report.lines())


def test_generated_data_holds_out_its_own_split():
    prepared = prepare(Data(name="generated:tickets", rows=12, holdout=5), TOKENIZER)
    assert (len(prepared.train), len(prepared.held_out)) == (12, 5)
    row = prepared.held_out[0]
    assert row.checkable
    assert isinstance(row.prompt, list)
    assert json.loads(row.reference)["product"] in row.prompt[-1]["content"]
    assert prepare(Data(name="generated:tickets", rows=12, holdout=0), TOKENIZER).held_out == []


def test_fewer_held_out_rows_are_the_beginning_of_more(write):
    section = Data(name=write([chat(f"q{n}", "a") for n in range(40)]), holdout=10)
    every = prepare(section, TOKENIZER)
    some = prepare(section, TOKENIZER, held_out_rows=4)
    assert some.held_out == every.held_out[:4]
    assert list(some.train) == list(every.train)


def test_what_a_held_out_row_carries(write):
    rows = [chat("q", "a", "r", "b", answer="7"), chat("x", '{"k": 1}'), chat("plain", "words")]
    held = {row.reference: row for row in prepare_held_out(Data(name=write(rows)), TOKENIZER).held_out}
    assert held["7"].checkable
    assert [m["content"] for m in held["7"].prompt] == ["q", "a", "r"]
    assert held['{"k": 1}'].checkable
    assert not held["words"].checkable
    plain = prepare_held_out(Data(name=write([{"prompt": "p ", "completion": "c"}], "p.jsonl")), TOKENIZER).held_out[0]
    assert (plain.prompt, plain.reference, plain.checkable) == ("p ", "c", False)
    raw = prepare_held_out(Data(name=write([{"text": "words"}], "t.jsonl")), TOKENIZER).held_out[0]
    assert (raw.prompt, raw.reference, raw.checkable) == (None, None, False)


def test_evaluation_takes_all_rows_and_any_limit_of_them(write):
    section = Data(name=write([chat(f"q{n}", "a") for n in range(30)]))
    prepared = prepare_held_out(section, TOKENIZER)
    assert (len(prepared.train), len(prepared.held_out)) == (0, 30)
    assert prepare_held_out(section, TOKENIZER, limit=6).held_out == prepared.held_out[:6]
    assert len(prepare_held_out(Data(name="generated:tickets", rows=50, holdout=9), TOKENIZER).held_out) == 9


# --- what is too long ---------------------------------------------------------------------------------------------

LONG = chat("q" * 50, "a" * 50)


def test_long_rows_are_dropped_and_counted(write):
    name = write([chat(f"q{n}", "a") for n in range(19)] + [LONG])
    prepared = prepare(Data(name=name, max_length=64, holdout=0), TOKENIZER)
    assert len(prepared.train) == 19
    assert prepared.report.dropped == {"longer than data.max_length=64": 1}
    assert "dropped 1 row: longer than data.max_length=64" in prepared.report.lines()


def test_too_many_long_rows_are_an_error_with_a_length_that_would_do(write):
    name = write([chat(f"q{n}", "a") for n in range(8)] + [LONG] * 2)
    section = Data(name=name, max_length=64, holdout=0)
    with pytest.raises(
        RequestError, match=r"2 of 10 rows \(20%\) have more than 64 tokens.*rows.jsonl line 9"
    ) as caught:
        prepare(section, TOKENIZER)
    enough = int(str(caught.value).split("data.max_length=")[1].split()[0])
    assert len(prepare(Data(name=name, max_length=enough, holdout=0), TOKENIZER).train) == 10
    section.overlength_limit = 0.2
    assert len(prepare(section, TOKENIZER).train) == 8


def test_overlength_error_takes_none(write):
    name = write([chat(f"q{n}", "a") for n in range(99)] + [LONG])
    with pytest.raises(RequestError, match=r"1 of 100 rows .* line 100"):
        prepare(Data(name=name, max_length=64, overlength="error", holdout=0), TOKENIZER)


def test_truncating_a_conversation_leaves_out_early_exchanges_and_keeps_the_answer(write):
    messages = [{"role": "system", "content": "sys"}, *chat("q1", "A1", "q2", "A2", "q3", "A3")["messages"]]
    full = prepare(Data(name=write([{"messages": messages}]), holdout=0), TOKENIZER).train[0]
    section = Data(
        name=write([{"messages": messages}]),
        holdout=0,
        max_length=len(full) - 1,
        overlength="truncate",
        overlength_limit=1.0,
    )
    [row] = prepare(section, TOKENIZER).train
    assert decode_trained(TOKENIZER, row) == "A2<|im_end|>A3<|im_end|>"
    assert text_of(row).startswith("<|im_start|>system\nsys<|im_end|>\n<|im_start|>user\nq2")
    section.max_length = len(row) - 1
    prepared = prepare(section, TOKENIZER)
    assert decode_trained(TOKENIZER, prepared.train[0]) == "A3<|im_end|>"
    assert "rows truncated to" in " ".join(prepared.report.lines())
    section.max_length = len(prepared.train[0]) - 1  # not even the last exchange: dropped, and nothing is left
    with pytest.raises(RequestError, match=r"no row is left to train on.*1: longer than"):
        prepare(section, TOKENIZER)


def test_truncated_held_out_row_is_asked_with_the_prompt_it_was_scored_with(write):
    section = Data(name=write([chat("q1", "A1", "q2", "A2")]), max_length=48, overlength="truncate")
    [row] = prepare_held_out(section, TOKENIZER).held_out
    assert row.prompt == [{"role": "user", "content": "q2"}]
    assert decode_trained(TOKENIZER, row) == "A2<|im_end|>"


def test_truncating_a_rewritten_conversation_shortens_each_row(write):
    tokenizer = build_tokenizer(STRIPS_THINKING)
    name = write([chat("q1", "<think>x</think>A1", "q2", "A2", "q3", "<think>y</think>A3")])
    section = Data(name=name, holdout=0, max_length=70, overlength="truncate", overlength_limit=1.0)
    rows = prepare(section, tokenizer).train
    assert text_of(rows[2]).count("user") == 2
    assert [decode_trained(tokenizer, row) for row in rows] == [
        "<think>x</think>A1<|im_end|>",
        "A2<|im_end|>",
        "<think>y</think>A3<|im_end|>",
    ]


def test_truncating_never_leaves_an_answer_without_its_question(write):
    messages = chat("q1", "A1", "q2", "A2", "q3", "A3")["messages"]
    section = Data(
        name=write([{"messages": messages}]), holdout=0, max_length=60, overlength="truncate", overlength_limit=1.0
    )
    [row] = prepare(section, TOKENIZER).train
    assert text_of(row).startswith("<|im_start|>user\nq2")


def test_truncating_text_cuts_its_end_without_a_false_eos(write):
    section = Data(
        name=write([{"text": "0123456789" * 3}]), holdout=0, max_length=8, overlength="truncate", overlength_limit=1.0
    )
    assert text_of(prepare(section, TOKENIZER).train[0]) == "01234567"


def test_splitting_text_loses_nothing(write):
    texts = ["0123456789" * 10, "short", "abc" * 40]
    section = Data(name=write([{"text": text} for text in texts]), holdout=0, max_length=16, overlength="split")
    prepared = prepare(section, TOKENIZER)
    assert "".join(text_of(row) for row in prepared.train) == "".join(text + "<|im_end|>" for text in texts)
    assert max(map(len, prepared.train)) <= 16
    assert any("texts cut into pieces of at most 16 tokens: 2" in line for line in prepared.report.lines())


@given(st.integers(1, 300), st.integers(8, 60), st.booleans())
@settings(max_examples=60)
def test_pieces_are_even_and_each_begins_with_the_prefix(length, limit, bos):
    prefix = [1] if bos else []
    body = list(range(10, 10 + length))
    row = Encoded([*prefix, *body], [-100, *[*prefix, *body][1:]], "x")
    parts = pieces(row, limit, prefix)
    assert [token for part in parts for token in part.input_ids[len(prefix) :]] == body
    sizes = [len(part) for part in parts]
    assert max(sizes) <= limit
    assert max(sizes) - min(sizes) <= 1
    for part in parts:
        first = max(1, len(prefix))
        assert part.labels == [-100] * first + part.input_ids[first:]
        assert part.input_ids[: len(prefix)] == prefix


def test_one_long_text_is_held_out_by_pieces(tmp_path):
    file = tmp_path / "book.txt"
    file.write_text(" ".join(map(str, range(2000))))
    with pytest.raises(RequestError, match=r"data\.overlength=split"):
        prepare(Data(name=str(file)), TOKENIZER)
    prepared = prepare(Data(name=str(file), overlength="split", max_length=64, holdout=0.1), TOKENIZER)
    pieces_made = len(prepared.train) + len(prepared.held_out)
    assert len(prepared.held_out) == round(0.1 * pieces_made)
    assert not {text_of(r) for r in prepared.train} & {text_of(r) for r in prepared.held_out}
    assert any("pieces are held out" in line for line in prepared.report.lines())


def test_many_texts_are_held_out_whole(write):
    texts = [{"text": f"{n} " * 40} for n in range(30)]
    prepared = prepare(Data(name=write(texts), overlength="split", max_length=32, holdout=0.1), TOKENIZER)
    held = {text_of(row).split()[0] for row in prepared.held_out}
    assert len(held) == 3
    assert not held & {text_of(row).split()[0] for row in prepared.train if text_of(row)[0].isdigit()}


def test_split_of_conversations_is_refused(write):
    with pytest.raises(RequestError, match=r"data.overlength: split cuts raw text, and the rows are chat messages"):
        prepare(Data(name=write([LONG] * 3), overlength="split"), TOKENIZER)


# --- what is counted ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (chat("q"), "has no answer to learn from"),
        (chat("q", " "), "turn 2: is an empty answer"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "assistant"),
    ],
)
def test_a_row_without_an_answer_stops_or_is_skipped_and_counted(write, row, said):
    name = write([chat("q", "a"), row, chat("q2", "a")])
    with pytest.raises(RequestError, match=rf"line 2.*{said}"):
        prepare(Data(name=name, holdout=0), TOKENIZER)
    prepared = prepare(Data(name=name, holdout=0, on_error="skip"), TOKENIZER)
    assert len(prepared.train) == 2
    assert (prepared.report.read, prepared.report.skipped) == (3, 1)
    assert any("skipped 1 row that cannot be used" in line for line in prepared.report.lines())


def test_report_says_what_was_read_and_counts_tokens(write):
    prepared = prepare(Data(name=write([chat(f"{n}", "abc") for n in range(10)]), holdout=0), TOKENIZER)
    first, second = prepared.report.lines()
    assert first == "read 10 rows of rows.jsonl as chat messages (column messages)"
    assert second == "training on 10 rows: 240 tokens, 40 of them trained (17%); the longest row has 24"
    assert json.loads(json.dumps(prepared.report.as_dict()))["trained_tokens"] == 40


def test_rows_caps_the_training_rows_after_the_hold_out(write):
    name = write([chat(f"q{n}", "a") for n in range(50)])
    capped = prepare(Data(name=name, rows=5, holdout=10), TOKENIZER)
    every = prepare(Data(name=name, holdout=10), TOKENIZER)
    assert list(capped.train) == list(every.train[:5])
    assert capped.held_out == every.held_out
    assert any("the first 5 of 40" in line for line in capped.report.lines())


def test_empty_data_set_and_mixed_rows(write):
    with pytest.raises(RequestError, match="is empty"):
        prepare(Data(name=write([])), TOKENIZER)
    with pytest.raises(RequestError, match="line 3: has no column `messages`"):
        prepare(Data(name=write([chat("q", "a"), chat("q", "a"), {"text": "t"}], "m.jsonl")), TOKENIZER)


def test_no_row_is_tokenised_twice_nor_in_the_next_run(write, monkeypatch):
    seen: list[str] = []
    real = Encoder.pack

    def spy(self, rendered):
        seen.extend(row.text for row in rendered)
        return real(self, rendered)

    monkeypatch.setattr(Encoder, "pack", spy)
    section = Data(name=write([chat(f"question {n}", f"answer {n}") for n in range(30)]), holdout=5)
    first = prepare(section, merging_tokenizer())
    assert len(seen) == len(set(seen)) == 30
    second = prepare(replace(section, holdout=7, rows=10, dedup="exact"), merging_tokenizer())
    assert len(seen) == 30
    assert len(second.train) == 10 and len(second.held_out) == 7
    assert first.held_out == second.held_out[:5]


def test_mixtures_hold_out_over_all_sources_and_keep_their_shares(write):
    a = write([chat(f"a{n}", "x") for n in range(60)], "a.jsonl")
    b = write([chat(f"b{n}", "y") for n in range(60)], "b.jsonl")
    sources = [DataSource(name=a, weight=2), DataSource(name=b, weight=1, system="Be brief.")]
    prepared = prepare(Data(name="", sources=sources, holdout=20), TOKENIZER)
    first = [row for row in prepared.train if row.where.startswith(a)]
    second = [row for row in prepared.train if row.where.startswith(b)]
    assert abs(len(first) - 2 * len(second)) <= 2 and len(first) + len(prepared.held_out) <= 80
    assert all("Be brief." in text_of(row) for row in second) and "system" not in text_of(first[0])
    assert {row.where.split(" ")[0] for row in prepared.held_out} == {a, b}
    assert not {text_of(row) for row in prepared.train} & {text_of(row) for row in prepared.held_out}
    capped = prepare(Data(name="", sources=sources, holdout=20, rows=15), TOKENIZER)
    assert sum(row.where.startswith(a) for row in capped.train) == 10 and len(capped.train) == 15
    lines = "\n".join(prepared.report.lines())
    assert "read 60 rows of a.jsonl" in lines and "read 60 rows of b.jsonl" in lines


def test_doubles_are_told_and_left_out_when_asked(write):
    long = " ".join(f"word{n}" for n in range(60))
    rows = [
        chat("q", "a"),
        chat("q", "a"),
        chat("w", long),
        chat("w", long + " more"),
        *(chat(f"{n}", "b") for n in range(9)),
    ]
    name = write(rows)
    told = prepare(Data(name=name, holdout=0), TOKENIZER)
    assert len(told.train) == 13 and any(
        "1 rows say the same" in line or "1 row says" in line for line in told.report.lines()
    )
    assert len(prepare(Data(name=name, holdout=0, dedup="exact"), TOKENIZER).train) == 12
    assert len(prepare(Data(name=name, holdout=0, dedup="near"), TOKENIZER).train) == 11
    apart = write([chat("q", "a")], "apart.jsonl")
    dirty = prepare(Data(name=name, holdout_name=apart, holdout=1), TOKENIZER)
    assert any("2 training rows stand among the held-out rows" in line for line in dirty.report.lines())
    clean = prepare(Data(name=name, holdout_name=apart, holdout=1, dedup="exact"), TOKENIZER)
    assert len(clean.train) == 11 and len(clean.held_out) == 1


def test_a_held_out_prompt_with_tools_is_the_one_that_training_saw(write):
    tokenizer = merging_tokenizer("{% if tools %}{{ 'You may call ' + tools|tojson + '\n' }}{% endif %}" + CHATML)
    tools = [{"type": "function", "function": {"name": "look", "description": "", "parameters": {"type": "object"}}}]
    name = write([chat(f"question {n}", f"answer {n}", tools=tools) for n in range(12)])
    for row in prepare(Data(name=name, holdout=3), tokenizer).held_out:
        first = next(index for index, label in enumerate(row.labels) if label != -100)
        assert prompt_ids(tokenizer, row.prompt, row.tools) == row.input_ids[:first]
        assert "You may call" in tokenizer.decode(row.input_ids[:first])
