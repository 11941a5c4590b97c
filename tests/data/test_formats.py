"""Every format from its columns, said out loud."""

from __future__ import annotations

import json

import pytest

from alignkit.data.formats.checkable import checkable
from alignkit.data.formats.table import formats_table
from alignkit.data.rows import Completion, Labelled, Prompt, Row, Text
from alignkit.errors import RequestError
from tests.data.converting import ANSWER, CALL, CALLING, FIRST, RESULT, SCHEMA, SYSTEM, USER, convert, converter


@pytest.mark.parametrize(
    ("values", "name", "messages"),
    [
        ({"messages": [SYSTEM, USER, ANSWER]}, "chat messages", [SYSTEM, USER, ANSWER]),
        ({"messages": [USER, ANSWER], "system": "s"}, "chat messages", [SYSTEM, USER, ANSWER]),
        ({"messages": [USER, ANSWER], "system": None}, "chat messages", [USER, ANSWER]),
        ({"messages": json.dumps([USER, ANSWER])}, "chat messages", [USER, ANSWER]),  # as a CSV cell holds it
        (
            {"messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": "a"}]}]},
            "chat messages",
            [USER, ANSWER],
        ),
        # A Parquet file gives every message the keys of all.
        (
            {"messages": [{**USER, "name": None, "tool_calls": None}, {**ANSWER, "name": None, "tool_calls": None}]},
            "chat messages",
            [USER, ANSWER],
        ),
        (
            {"messages": [{**USER, "name": "Ann"}, {**ANSWER, "reasoning_content": "hm"}]},
            "chat messages",
            [{**USER, "name": "Ann"}, {**ANSWER, "reasoning_content": "hm"}],
        ),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            "ShareGPT",
            [USER, ANSWER],
        ),
        (
            {
                "conversations": [
                    {"from": "system", "value": "s"},
                    {"from": "human", "value": "q"},
                    {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
                    {"from": "observation", "value": "2"},
                    {"from": "gpt", "value": "a"},
                ]
            },
            "ShareGPT",
            [
                SYSTEM,
                USER,
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}],
                },
                {"role": "tool", "content": "2"},
                ANSWER,
            ],
        ),
        # `datasets` stores a Sequence of objects as one list per key.
        ({"conversations": {"from": ["human", "gpt"], "value": ["q", "a"]}}, "chat messages", [USER, ANSWER]),
        ({"instruction": "q", "input": "", "output": "a"}, "Alpaca", [USER, ANSWER]),
        (
            {"instruction": "q", "input": "more", "output": "a"},
            "Alpaca",
            [{"role": "user", "content": "q\nmore"}, ANSWER],
        ),
        (
            {"instruction": "q", "context": "more", "response": "a", "category": "qa"},
            "Dolly",
            [{"role": "user", "content": "q\nmore"}, ANSWER],
        ),
        (
            {"instruction": "r", "output": "b", "history": [["q", "a"]], "system": "s"},
            "Alpaca",
            [SYSTEM, USER, ANSWER, {"role": "user", "content": "r"}, {"role": "assistant", "content": "b"}],
        ),
        ({"prompt": [USER], "completion": [ANSWER]}, "conversational prompt and completion", [USER, ANSWER]),
        ({"prompt": [USER], "completion": "a"}, "conversational prompt and completion", [USER, ANSWER]),
        (
            {"prompt": "\n\nHuman: q\n\nAssistant:", "completion": " a"},
            "conversational prompt and completion",
            [USER, ANSWER],
        ),
        ({"question": "q", "answer": "a"}, "question and answer", [USER, ANSWER]),
        ({"prompt": "q", "response": "a"}, "question and answer", [USER, ANSWER]),
        ({"prompt": [USER], "solution": "a", "answer": "7"}, "question and answer", [USER, ANSWER]),
    ],
)
def test_conversational_formats(values, name, messages):
    found = converter(values)
    assert found.name == name
    (document,) = found(Row(values, "x"))
    assert document.messages == messages
    assert document.weights is None


def test_plain_prompt_and_completion_stay_plain():
    assert convert(prompt="q ", completion="a") == Completion("q ", "a", FIRST)
    assert convert(prompt="", completion="a") == Completion("", "a", FIRST)
    assert convert(prompt='[1, "x"]', completion="[{]") == Completion('[1, "x"]', "[{]", FIRST)


def test_raw_text():
    found = converter({"text": "t", "label": 1})
    assert str(found) == "raw text (column text; ignored: label)"
    assert found.raw_text
    assert convert(text="t") == Text("t", FIRST)
    assert convert(content="t") == Text("t", FIRST)


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ({"text": "t", "label": "good"}, "good"),
        ({"sentence": "t", "label": 0, "label_text": "bad"}, "bad"),
        ({"review": "t", "sentiment": "positive"}, "positive"),
        ({"text": "t", "label": True}, "true"),
    ],
)
def test_labelled_text(values, label):
    assert convert("labelled", **values) == Labelled("t", label, FIRST)
    assert converter(values, None).kind == "labelled"


def test_columns_are_said():
    assert (
        str(converter({"id": 1, "messages": [USER, ANSWER], "answer": "a"}))
        == "chat messages (columns messages, answer; ignored: id)"
    )


def test_tools_and_old_function_calls_become_one_spelling():
    calling = {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": '{"a": 1}'}}
    result = {"role": "function", "name": "add", "content": "2"}
    document = convert(messages=[USER, calling, result, ANSWER], functions=[SCHEMA])
    assert document.tools == [{"type": "function", "function": SCHEMA}]
    assert document.messages == [
        USER,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "name": "add", "content": "2"},
        ANSWER,
    ]
    written = {**CALL, "function": {"name": "add", "arguments": '{"a": 1}'}}
    document = convert(
        messages=[USER, {**CALLING, "tool_calls": [written]}, RESULT, ANSWER], tools=json.dumps([SCHEMA])
    )
    assert document.messages == [USER, CALLING, RESULT, ANSWER]
    assert document.tools == [{"type": "function", "function": SCHEMA}]


def test_a_call_may_be_the_last_answer():
    assert convert(messages=[USER, CALLING]).messages == [USER, CALLING]


@pytest.mark.parametrize(
    ("flags", "weights"),
    [
        (({"weight": 0}, {"weight": 1}), (0, 0, 0, 1)),
        (({"train": False}, {}), (0, 0, 0, 1)),
        (({"trainable": "false"}, {"trainable": "true"}), (0, 0, 0, 1)),
        (({"loss": 0.25}, {"loss": None}), (0, 0.25, 0, 1)),
        (({"weight": 1}, {"train": True}), None),
        (({"weight": 2}, {}), (0, 2, 0, 1)),
    ],
)
def test_weights_per_message(flags, weights):
    one, two = flags
    assert convert(messages=[USER, {**ANSWER, **one}, USER, {**ANSWER, **two}]).weights == weights


def test_weights_keep_step_with_a_system_prompt_that_is_put_in():
    values = {"messages": [USER, {**ANSWER, "weight": 0}, USER, ANSWER]}
    (document,) = converter(values, system="be brief")(Row(values, "x"))
    assert document.messages[0] == {"role": "system", "content": "be brief"}
    assert document.weights == (0, 0, 0, 0, 1)


def test_a_wish_to_train_on_the_user_is_counted():
    found = converter({"messages": [{**USER, "weight": 1}, ANSWER]})
    found(Row({"messages": [{**USER, "weight": 1}, ANSWER]}, "x"))
    assert [count for note, count in found.notes.items() if "not the assistant's" in note] == [1]


def test_answers_within_a_prompt_are_context():
    document = convert(prompt=[USER, ANSWER, USER], completion=[{"role": "assistant", "content": "b"}])
    assert document.weights == (0, 0, 0, 1)


def test_turns_after_the_last_answer_are_cut_and_counted():
    values = {"messages": [USER, {**ANSWER, "weight": 0}, USER, ANSWER, USER]}
    found = converter(values)
    (document,) = found(Row(values, "x"))
    assert document.messages == [USER, ANSWER | {"content": "a"}, USER, ANSWER] and document.weights == (0, 0, 0, 1)
    assert found.notes == {"turns after the last answer left out": 1}


def test_keys_of_messages_that_nothing_reads_are_counted():
    values = {"messages": [USER, {**ANSWER, "timestamp": 5, "refusal": None}]}
    found = converter(values)
    found(Row(values, "x"))
    assert found.notes == {"messages have the key `timestamp`, which is not read": 1}


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
    ("values", "answer"),
    [
        ({"prompt": "q", "answer": 7}, "7"),
        ({"prompt": [USER], "solution": "so 7", "answer": "7"}, "7"),
        ({"problem": "q", "solution": "7"}, "7"),
        ({"question": "q", "ground_truth": "7"}, "7"),
        ({"prompt": [USER], "reward_model": {"style": "rule", "ground_truth": "7"}}, "7"),
        ({"prompt": "q"}, None),
        ({"messages": [USER]}, None),
        ({"messages": [USER, ANSWER]}, None),
        ({"instruction": "q", "output": "7", "answer": "7"}, "7"),
    ],
)
def test_prompts_with_a_checkable_answer(values, answer):
    assert convert("prompt", **values) == Prompt([USER], FIRST, answer, columns=values)


def test_a_call_written_in_the_text_counts_as_one():
    hermes = [USER, {**ANSWER, "content": '<tool_call>{"name": "f"}'}, {"role": "tool", "content": "x"}, ANSWER]
    assert len(convert(messages=hermes).messages) == 4


def test_a_format_can_be_forced():
    values = {"text": "t", "question": "q", "answer": "a"}
    assert converter(values).name == "question and answer"
    assert converter(values, format="text").name == "raw text"
    with pytest.raises(RequestError, match=r"data.format=alpaca reads the columns instruction.*columns are text"):
        converter(values, format="alpaca")
    with pytest.raises(RequestError, match=r"there is no format `alpacca`. Did you mean `alpaca`\?"):
        converter(values, format="alpacca")


def test_every_format_is_in_the_table():
    names = [name for name, *_ in formats_table()]
    assert names == [
        "preference",
        "ranking",
        "feedback",
        "scored",
        "messages",
        "sharegpt",
        "alpaca",
        "prompt-completion",
        "question-answer",
        "prompt",
        "labelled",
        "text",
    ]
    assert all(len(row) == 4 and all(row) for row in formats_table())
