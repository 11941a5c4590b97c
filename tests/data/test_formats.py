"""Every format from its columns, said out loud; every row that does not fit named with what to do."""

from __future__ import annotations

import json

import pytest

from alignkit.data.formats.recognise import checkable, recognise
from alignkit.data.rows import Completion, Row, Text
from alignkit.errors import RequestError

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
SYSTEM = {"role": "system", "content": "s"}


def convert(**values):
    row = Row(values, "f.jsonl line 1")
    return recognise(row).convert(row)


@pytest.mark.parametrize(
    ("values", "name", "messages"),
    [
        ({"messages": [SYSTEM, USER, ANSWER]}, "chat messages", [SYSTEM, USER, ANSWER]),
        ({"messages": [USER, ANSWER], "system": "s"}, "chat messages", [SYSTEM, USER, ANSWER]),
        ({"messages": json.dumps([USER, ANSWER])}, "chat messages", [USER, ANSWER]),  # as a CSV cell holds it
        (
            {"messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": "a"}]}]},
            "chat messages",
            [USER, ANSWER],
        ),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            "ShareGPT",
            [USER, ANSWER],
        ),
        ({"instruction": "q", "input": "", "output": "a"}, "Alpaca", [USER, ANSWER]),
        (
            {"instruction": "q", "input": "more", "output": "a"},
            "Alpaca",
            [{"role": "user", "content": "q\nmore"}, ANSWER],
        ),
        (
            {"instruction": "r", "output": "b", "history": [["q", "a"]], "system": "s"},
            "Alpaca",
            [SYSTEM, USER, ANSWER, {"role": "user", "content": "r"}, {"role": "assistant", "content": "b"}],
        ),
        ({"prompt": [USER], "completion": [ANSWER]}, "conversational prompt and completion", [USER, ANSWER]),
        ({"prompt": [USER], "completion": "a"}, "conversational prompt and completion", [USER, ANSWER]),
        ({"question": "q", "answer": "a"}, "question and answer", [USER, ANSWER]),
        ({"prompt": "q", "response": "a"}, "question and answer", [USER, ANSWER]),
        ({"prompt": [USER], "solution": "a", "answer": "7"}, "question and answer", [USER, ANSWER]),
    ],
)
def test_conversational_formats(values, name, messages):
    found = recognise(Row(values, "x"))
    assert found.name == name
    assert found.convert(Row(values, "x")).messages == messages


def test_plain_prompt_and_completion_stay_plain():
    assert convert(prompt="q ", completion="a") == Completion("q ", "a", "f.jsonl line 1")


def test_raw_text():
    found = recognise(Row({"text": "t", "label": 1}, "x"))
    assert str(found) == "raw text (column text; ignored: label)"
    assert found.raw_text
    assert convert(text="t") == Text("t", "f.jsonl line 1")


def test_columns_are_said():
    found = recognise(Row({"id": 1, "messages": [USER, ANSWER], "answer": "a"}, "x"))
    assert str(found) == "chat messages (columns messages, answer; ignored: id)"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"messages": [USER, ANSWER], "answer": "7"}, ("7", True)),
        ({"messages": [USER, ANSWER], "answer": 7}, ("7", True)),
        ({"messages": [USER, ANSWER]}, ("a", False)),
        ({"messages": [USER, {"role": "assistant", "content": '{"a": 1}'}]}, ('{"a": 1}', True)),
        ({"prompt": [USER], "solution": "so 7", "answer": "7"}, ("7", True)),
        ({"question": "q", "answer": "steps\n#### 42"}, ("steps\n#### 42", True)),
        ({"question": "q", "answer": "a long essay about many things"}, ("a long essay about many things", False)),
        ({"prompt": "q", "completion": '{"a": 1}'}, ('{"a": 1}', True)),
        ({"text": "t"}, (None, False)),
    ],
)
def test_what_can_be_checked(values, expected):
    assert checkable(convert(**values)) == expected


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"inputs": "a", "mesages": []},
            r"columns are inputs, mesages.*Columns that would do.*Rename `mesages` to `messages`",
        ),
        ({}, "no columns"),
        ({"prompt": [USER], "chosen": [ANSWER], "rejected": [ANSWER]}, "preference data"),
        ({"prompt": [USER], "completion": [ANSWER], "label": True}, "feedback data"),
        ({"messages": [USER, ANSWER], "tools": [{"name": "f"}]}, "tools"),
        ({"messages": []}, "empty list"),
        ({"messages": "hello"}, "holds text"),
        ({"messages": {"role": "user"}}, "holds an object"),
        ({"messages": ["hello"]}, "turn 1 of `messages`: is text"),
        ({"messages": [{"text": "hello"}]}, "has the keys text"),
        (
            {"messages": [USER, {"role": "asistant", "content": "a"}]},
            "turn 2 of `messages`: has the unknown role `asistant`",
        ),
        ({"messages": [USER, {"role": None, "content": "a"}]}, "unknown role `null`"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "has null as its content"),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "image"}]}]}, "part of type `image`"),
        ({"messages": [USER, {**ANSWER, "tool_calls": [{}]}]}, "tool calls cannot be read yet"),
        ({"messages": [USER, {**ANSWER, "weight": 0}]}, "weight per message"),
        ({"instruction": "q", "output": None}, "column `output` holds null"),
        ({"instruction": "q", "output": "a", "history": ["x"]}, "history"),
        ({"text": float("nan")}, "column `text` holds a number"),
    ],
)
def test_rows_that_do_not_fit(values, said):
    with pytest.raises(RequestError, match=said) as caught:
        convert(**values)
    assert str(caught.value).startswith("f.jsonl line 1")


def test_row_without_the_first_rows_columns_is_named():
    found = recognise(Row({"messages": [USER, ANSWER]}, "line 1"))
    with pytest.raises(RequestError, match=r"line 2: has no column `messages`.*its columns are text"):
        found.convert(Row({"text": "t"}, "line 2"))
