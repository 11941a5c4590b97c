"""Every format from its columns, said out loud; every row that does not fit named with what to do."""

from __future__ import annotations

import json
import pickle
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.config.sections import DataSource
from alignkit.data.formats.checkable import checkable
from alignkit.data.formats.converter import plan
from alignkit.data.formats.table import formats_table
from alignkit.data.rows import Completion, Conversation, Document, Kind, Labelled, Prompt, Row, Text
from alignkit.errors import RequestError

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
SYSTEM = {"role": "system", "content": "s"}
FIRST = "f.jsonl line 1"


def converter(values, wants="demonstration", **source):
    """A converter as another process gets it."""
    found = plan(DataSource(name="f.jsonl", **source), wants, Row(values, FIRST))
    return pickle.loads(pickle.dumps(found))


def convert(wants="demonstration", **values):
    (document,) = converter(values, wants)(Row(values, FIRST))
    return document


CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "2", "tool_call_id": "c1"}
SCHEMA = {"name": "add", "parameters": {"type": "object"}}


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
    assert convert("prompt", **values) == Prompt([USER], FIRST, answer)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"inputs": "a", "mesages": []},
            r"columns are inputs, mesages.*Columns that would do.*Rename `mesages` to `messages`",
        ),
        ({}, "no columns"),
        ({"messages": []}, "empty list"),
        ({"messages": "hello"}, "holds text"),
        ({"messages": None}, "holds null"),
        ({"messages": {"content": "x"}}, "holds an object"),
        ({"messages": ["hello"]}, "turn 1 of `messages`: is text"),
        ({"messages": [{"text": "hello"}]}, "has the keys text"),
        (
            {"messages": [USER, {"role": "asistant", "content": "a"}]},
            "turn 2 of `messages`: has the unknown role `asistant`",
        ),
        ({"messages": [USER, {"role": None, "content": "a"}]}, "unknown role `null`"),
        ({"messages": [USER, {"role": ["user"], "content": "a"}]}, "unknown role"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "has null as its content"),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "image"}]}]}, "part of type `image`"),
        ({"messages": [USER, {**ANSWER, "tool_calls": [{}]}]}, "tool call without a name"),
        ({"messages": [USER, {**ANSWER, "tool_calls": "x"}]}, "is no JSON"),
        ({"messages": [USER, {**ANSWER, "function_call": {"name": "f", "arguments": "x"}}]}, "arguments of `f` is no"),
        ({"messages": [USER, {**ANSWER, "function_call": {"name": "f", "arguments": [1]}}]}, "calls `f` with a list"),
        ({"messages": [{**USER, "tool_calls": [CALL]}, ANSWER]}, "is the user's and calls a tool"),
        ({"messages": [{**USER, "reasoning_content": "hm"}, ANSWER]}, "is the user's and has `reasoning_content`"),
        ({"messages": [USER, {**ANSWER, "weight": -1}]}, "turn 2 of `messages`: has `-1` as its `weight`"),
        (
            {"messages": [USER, {**ANSWER, "weight": 1, "train": False}]},
            "weight=1 and train=False, and these do not agree",
        ),
        ({"messages": [USER, {**ANSWER, "weight": 0}]}, "every assistant turn has weight 0"),
        ({"messages": [USER, ANSWER], "tools": [{"type": "function"}]}, "tool 1 of `tools` has no name"),
        ({"messages": [USER, ANSWER], "tools": "[{"}, "column `tools` is no JSON"),
        ({"instruction": "q", "output": None}, "column `output` holds null"),
        ({"instruction": "q", "output": "a", "history": ["x"]}, "history"),
        ({"instruction": "q", "output": "a", "history": True}, "column `history` holds `true`"),
        ({"instruction": "q", "output": "  "}, "column `output` is empty"),
        ({"prompt": "q", "completion": ""}, "column `completion` is empty"),
        ({"text": float("nan")}, "column `text` holds NaN"),
        ({"text": " \n"}, "column `text` is empty"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "no"}]}, "is no JSON"),
    ],
)
def test_rows_that_do_not_fit(values, said):
    with pytest.raises(RequestError, match=said) as caught:
        convert(**values)
    assert str(caught.value).startswith(FIRST)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([USER, ANSWER, SYSTEM, USER, ANSWER], "turn 3: is a system turn, and only the first turn may be one"),
        ([USER, USER, ANSWER], "turn 2: is a second user turn in a row"),
        ([USER, ANSWER, ANSWER], "turn 3: is a second assistant turn in a row"),
        ([ANSWER, USER, ANSWER], "turn 1: is the assistant's and speaks before any user turn"),
        ([SYSTEM, ANSWER], "turn 2: is the assistant's and speaks before any user turn"),
        ([USER, {"role": "tool", "content": "x"}, ANSWER], "turn 2: is a tool's result, and no turn before it calls"),
        ([USER, ANSWER, {"role": "tool", "content": "x"}, ANSWER], "turn 3: is a tool's result"),
        ([USER, CALLING, {**RESULT, "tool_call_id": "c2"}, ANSWER], "turn 3: is a tool's result"),
        ([USER], "no answer to learn from: no turn is the assistant's"),
        ([SYSTEM, USER], "no answer to learn from"),
        ([USER, {**ANSWER, "content": " \n"}], "turn 2: is an empty answer"),
        ([USER, {**ANSWER, "content": ""}, USER, ANSWER], "turn 2: is an empty answer"),
        ([USER, {**ANSWER, "content": "", "reasoning_content": "hm"}], r"empty answer \(it has reasoning only\)"),
    ],
)
def test_turns_out_of_order_and_answers_that_are_missing(messages, said):
    with pytest.raises(RequestError, match=said) as caught:
        convert(messages=messages)
    assert str(caught.value).startswith(FIRST)


def test_a_call_written_in_the_text_counts_as_one():
    hermes = [USER, {**ANSWER, "content": '<tool_call>{"name": "f"}'}, {"role": "tool", "content": "x"}, ANSWER]
    assert len(convert(messages=hermes).messages) == 4


def test_row_without_the_first_rows_columns_is_named():
    found = converter({"messages": [USER, ANSWER]})
    with pytest.raises(RequestError, match=r"line 2: has no column `messages`.*its columns are text"):
        found(Row({"text": "t"}, "line 2"))


def test_rows_may_leave_out_what_stands_beside():
    found = converter({"messages": [USER, ANSWER]})
    values = {"messages": [USER, ANSWER], "tools": [SCHEMA], "system": "s", "source": "x"}
    (document,) = found(Row(values, "line 2"))
    assert document.tools and document.messages[0] == SYSTEM
    assert found.notes == {"rows with a column `source`, which the first row lacks and nothing reads": 1}
    assert found(Row({"messages": [USER, ANSWER]}, "line 3")) == [Conversation([USER, ANSWER], "line 3")]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"prompt": "q", "completion": "a"}, {"prompt": "q", "completion": "a", "label": False}),
        ({"prompt": "q", "completion": "a"}, {"prompt": "q", "completion": "a", "system": "s"}),
        ({"messages": [USER, ANSWER]}, {"messages": [USER, ANSWER], "chosen": [ANSWER], "rejected": [ANSWER]}),
    ],
)
def test_rows_of_another_format_are_named(first, second):
    with pytest.raises(RequestError, match="line 2: would be read as"):
        converter(first)(Row(second, "line 2"))


def test_text_where_the_first_row_has_messages():
    found = converter({"prompt": [USER], "completion": [ANSWER]})
    with pytest.raises(RequestError, match="line 2: column `prompt` holds text where a list of messages was expected"):
        found(Row({"prompt": "q", "completion": [ANSWER]}, "line 2"))
    found = converter({"prompt": "q", "completion": "a"})
    with pytest.raises(RequestError, match="line 2: column `prompt` holds a list, and holds text in the first row"):
        found(Row({"prompt": [USER], "completion": "a"}, "line 2"))


def test_a_format_can_be_forced():
    values = {"text": "t", "question": "q", "answer": "a"}
    assert converter(values).name == "question and answer"
    assert converter(values, format="text").name == "raw text"
    with pytest.raises(RequestError, match=r"data.format=alpaca reads the columns instruction.*columns are text"):
        converter(values, format="alpaca")
    with pytest.raises(RequestError, match=r"there is no format `alpacca`. `alpaca`\?"):
        converter(values, format="alpacca")


def test_every_format_is_in_the_table():
    names = [name for name, *_ in formats_table()]
    assert names == [
        "preference",
        "ranking",
        "feedback",
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


VALID = [
    {"messages": [SYSTEM, USER, CALLING, RESULT, ANSWER], "tools": [SCHEMA], "system": "s", "answer": "7"},
    {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": '{"name": "f"}'}]},
    {"instruction": "q", "input": "m", "output": "a", "history": [["q", "a"]]},
    {"prompt": [USER], "completion": [ANSWER], "label": True},
    {"prompt": "q", "chosen": [USER, ANSWER], "rejected": [USER, CALLING], "margin": 1.0},
    {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
    {"prompt": "q", "answers": ["a", {"text": "b"}, [ANSWER]], "scores": [1, 2, 3]},
    {"prompt": "q", "reward_model": {"ground_truth": "7"}},
    {"text": "t", "label": "x"},
]
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", " ", "[{", "{}", "[1]", "tool", "q"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "tool_calls", "function", "name", "x"]), inner)
    ),
    max_leaves=4,
)


def places(value, path=()):
    """Every place within a row where something else could stand."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


def put(value, path, other):
    """The row with something else at one place; `...`: without it."""
    if not path:
        return other
    copy = value.copy()
    if len(path) == 1 and other is ...:
        del copy[path[0]]
    else:
        copy[path[0]] = put(value[path[0]], path[1:], other)
    return copy


@settings(max_examples=400, deadline=None)
@given(data=st.data(), values=st.sampled_from(VALID), wants=st.sampled_from([None, *get_args(Kind)]))
def test_whatever_stands_in_a_row_is_a_document_or_a_fault(data, values, wants):
    path = data.draw(st.sampled_from([path for path in places(values) if path]))
    other = put(values, path, data.draw(st.just(...) | anything))
    for first, row in ((values, other), (other, other), (other, values)):
        try:
            found = converter(first, wants)
            documents = found(Row(row, "x"))
        except RequestError as error:
            assert all(fault.where and fault.what for fault in error.faults)
        else:
            assert all(isinstance(document, get_args(Document)) for document in documents)
