"""Every row that does not fit is named with what to do; no row makes anything but a document or a fault."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.data.rows import Completion, Conversation, Document, Kind, Row
from alignkit.errors import RequestError
from tests.data.converting import ANSWER, CALL, CALLING, FIRST, RESULT, SCHEMA, SYSTEM, USER, convert, converter


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


def test_columns_in_another_order_are_the_same():
    found = converter({"prompt": "q", "completion": "a", "id": 1})
    assert found(Row({"id": 2, "completion": "a", "prompt": "q"}, "line 2")) == [Completion("q", "a", "line 2")]
    assert not found.notes


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"prompt": "q", "completion": "a"}, {"prompt": "q", "completion": "a", "label": False}),
        ({"prompt": "q", "completion": "a"}, {"prompt": "q", "completion": "a", "system": "s"}),
        ({"messages": [USER, ANSWER]}, {"messages": [USER, ANSWER], "chosen": [ANSWER], "rejected": [ANSWER]}),
        ({"messages": [USER, ANSWER], "system": "s"}, {"messages": [USER, ANSWER], "label": True}),
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
    {"conversations": {"from": ["human", "gpt"], "value": ["q", "a"]}},
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
