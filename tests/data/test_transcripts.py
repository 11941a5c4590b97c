"""Anthropic's "Human: … Assistant: …" text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.data.formats.transcript import is_transcript, read_transcript
from alignkit.errors import RequestError

texts = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    .map(str.strip)
    .filter(lambda text: "\n\n" not in text)
)


@given(st.lists(st.tuples(texts, texts.filter(bool)), min_size=1, max_size=3))
def test_turns_come_back(pairs):
    written = "".join(f"\n\nHuman: {question}\n\nAssistant: {answer}" for question, answer in pairs)
    assert is_transcript(written)
    turns = read_transcript(written, "chosen", "x")
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * len(pairs)
    assert [turn["content"] for turn in turns] == [text for pair in pairs for text in pair]


def test_an_open_turn_is_an_empty_answer():
    turns = read_transcript("\n\nHuman: q\n\nAssistant:", "chosen", "x")
    assert turns == [{"role": "user", "content": "q"}, {"role": "assistant", "content": ""}]


def test_paragraphs_and_line_ends_stay():
    text = "\n\nHuman: one\n\ntwo\r\nAssistant: no turn\n\nAssistant: a\n\nb"
    assert [turn["content"] for turn in read_transcript(text, "chosen", "x")] == [
        "one\n\ntwo\r\nAssistant: no turn",
        "a\n\nb",
    ]


@pytest.mark.parametrize("text", ["", "hello", "Human: no answer", "Humans: q\n\nAssistant: a", None, 5, ["Human: "]])
def test_what_is_no_transcript(text):
    assert not is_transcript(text)


def test_text_before_the_first_turn():
    with pytest.raises(RequestError, match=r"x: column `chosen` does not begin with `Human:`.*hello"):
        read_transcript("hello\n\nHuman: q", "chosen", "x")
