"""What is written reads back the same; what a format cannot say is a fault; a file appears whole or not at all."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alignkit.config.sections import DataSource
from alignkit.data.formats.converter import plan
from alignkit.data.reading.parts import read
from alignkit.data.reading.places import locate
from alignkit.data.rows import Completion, Conversation, Feedback, Preference, Text
from alignkit.data.writing import FORMATS, kind_of_format, write
from alignkit.errors import RequestError
from tests.data.converting import ANSWER, CALLING, RESULT, SYSTEM, USER

# Whatever a person may write: no half surrogates (no text), no NUL (a CSV's reader has a say on these).
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
said = words.map(lambda text: text + "x")  # an answer says something
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | words, lambda inner: st.lists(inner, max_size=2), max_leaves=3
)
arguments = st.dictionaries(words, json_values, max_size=2)
calls = st.builds(
    lambda name, values: {"type": "function", "function": {"name": name, "arguments": values}}, said, arguments
)
tools = st.none() | st.lists(
    st.builds(
        lambda name, more: {"type": "function", "function": {"name": name, **more}}, said, st.just({"x": {"y": [1]}})
    ),
    min_size=1,
    max_size=2,
)


@st.composite
def chats(draw, *, rich=True, text_calls=False):
    """Conversations in our spelling; rich: with everything that format=messages can say."""
    messages = [{"role": "system", "content": draw(said)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(words)})
        if (rich or text_calls) and draw(st.booleans()):
            call = draw(calls)
            identity = {"id": "c1"} if rich else {}
            text = draw(words) if rich else ""
            messages.append({"role": "assistant", "content": text, "tool_calls": [{**identity, **call}]})
            result = {"role": "tool", "content": draw(words)}
            messages.append({**result, "tool_call_id": "c1", "name": draw(said)} if rich else result)
        answer = {"role": "assistant", "content": draw(said)}
        if rich and draw(st.booleans()):
            answer["reasoning_content"] = draw(said)
        messages.append(answer)
    weights = None
    spoken = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    if rich and draw(st.booleans()):
        weights = [0.0] * len(messages)
        for at in spoken:
            weights[at] = draw(st.sampled_from([0.0, 0.5, 1.0]))
        weights[spoken[0]] = 0.25
    return Conversation(
        messages,
        "x",
        draw(st.none() | words),
        draw(tools) if rich or text_calls else None,
        None if weights is None else tuple(weights),
    )


completions = st.builds(Completion, words, said, st.just("x"), st.none() | words)
exchanges = st.builds(lambda q, a: Conversation([USER | {"content": q}, ANSWER | {"content": a}], "x"), words, said)
score = st.none() | st.floats(-5, 5)
plain_pairs = st.builds(lambda q, a, high, low: Preference(q, a, a + "y", "x", high, low), words, said, score, score)
chat_pairs = st.builds(
    lambda chat, more: Preference(
        chat.messages[:-1],
        chat.messages[-1:],
        [{"role": "assistant", "content": more + "y"}],
        "x",
        1.0,
        None,
        chat.tools,
    ),
    chats().filter(
        lambda chat: chat.messages[-1]["content"][-1] != "y" and "reasoning_content" not in chat.messages[-1]
    ),
    words,
)
plain_feedback = st.builds(Feedback, words, said, st.booleans(), st.just("x"))
chat_feedback = st.builds(
    lambda chat, label: Feedback(chat.messages[:-1], chat.messages[-1:], label, "x"), chats(), st.booleans()
)
CASES = {
    "messages": chats(),
    "sharegpt": chats(rich=False, text_calls=True),
    "alpaca": chats(rich=False),
    "prompt-completion": completions,
    "prompt-completion of messages": exchanges,
    "preference": chat_pairs,
    "preference of plain text": plain_pairs,
    "feedback": chat_feedback,
    "feedback of plain text": plain_feedback,
    "text": st.builds(Text, said, st.just("x")),
}


def back(path, format):
    """What is read from a file, without the places."""
    converter, found = None, []
    for row in read(locate(str(path))):
        converter = converter or plan(DataSource(name=str(path)), kind_of_format(format), row)
        found += converter(row)
    return found


def bare(documents):
    """Documents without their places."""
    return [{name: getattr(d, name) for name in d.__slots__ if name != "where"} | {"": type(d)} for d in documents]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
@pytest.mark.parametrize("case", CASES)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_what_is_written_is_read(tmp_path, case, suffix, data):
    documents = data.draw(st.lists(CASES[case], min_size=1, max_size=4))
    format, path = case.split()[0], tmp_path / f"rows{suffix}"
    assert write(documents, path, format) == len(documents)
    assert bare(back(path, format)) == bare(documents)


def test_every_format_is_tried():
    assert {case.split()[0] for case in CASES} == set(FORMATS)


CHAT = Conversation([USER, ANSWER], "f.jsonl line 3")


@pytest.mark.parametrize(
    ("document", "format", "said"),
    [
        (Completion("q", "a", "f line 3"), "messages", "plain prompt and completion.*format=messages cannot say"),
        (Text("t", "f line 3"), "alpaca", "is raw text, which format=alpaca cannot say. Write format=text"),
        (CHAT, "text", "is a chat, which format=text cannot say"),
        (CHAT, "preference", "is a chat"),
        (CHAT, "feedback", "is a chat"),
        (Feedback("q", "a", True, "f line 3"), "messages", "is a feedback"),
        (Conversation([USER, CALLING, RESULT, ANSWER], "f line 3"), "sharegpt", "no ids of tool calls"),
        (Conversation([USER, ANSWER | {"reasoning_content": "hm"}], "f line 3"), "sharegpt", "no `reasoning_content`"),
        (Conversation([USER, ANSWER], "f line 3", weights=(0, 2)), "sharegpt", "no loss weights"),
        (Conversation([{"role": "developer", "content": "s"}, USER, ANSWER], "f line 3"), "sharegpt", "`developer`"),
        (Conversation([USER, CALLING, RESULT, ANSWER], "f line 3"), "alpaca", "Alpaca's turns are"),
        (Conversation([SYSTEM | {"content": ""}, USER, ANSWER], "f line 3"), "alpaca", "empty system prompt"),
        (Conversation([USER, ANSWER | {"name": "Bo"}], "f line 3"), "alpaca", "Alpaca has text only"),
        (Conversation([USER, ANSWER, USER, ANSWER], "f line 3"), "prompt-completion", "only the last turn"),
    ],
)
def test_what_a_format_cannot_say(tmp_path, document, format, said):
    with pytest.raises(RequestError, match=said) as caught:
        write([document], tmp_path / "rows.jsonl", format)
    assert "line 3" in caught.value.faults[0].where
    assert list(tmp_path.iterdir()) == []


def test_only_the_reply_of_a_longer_conversation(tmp_path):
    document = Conversation([SYSTEM, USER, ANSWER, USER, ANSWER], "x", weights=(0, 0, 0, 0, 1))
    write([document], tmp_path / "rows.jsonl", "prompt-completion")
    assert bare(back(tmp_path / "rows.jsonl", "prompt-completion")) == bare([document])


def test_a_file_that_was_there_stays_when_writing_fails(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("old")
    with pytest.raises(RequestError):
        write([CHAT, Text("t", "x")], path, "messages")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(KeyboardInterrupt):
        write(interrupted(), path, "messages")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    write([CHAT], path, "messages")
    assert json.loads(path.read_text()) == {"messages": [USER, ANSWER]}


def interrupted():
    yield CHAT
    raise KeyboardInterrupt


def test_the_same_rows_are_the_same_bytes(tmp_path):
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write([CHAT], tmp_path / name)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert json.loads(gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes())) == {"messages": [USER, ANSWER]}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_half_a_surrogate_is_named(tmp_path, suffix):
    with pytest.raises(RequestError, match="f line 3: holds half of a surrogate pair"):
        write([Text("\ud800", "f line 3")], tmp_path / f"rows{suffix}", "text")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_messages_and_plain_text_do_not_mix(tmp_path, suffix):
    chat = Feedback([USER], [ANSWER], True, "f line 1")
    with pytest.raises(
        RequestError, match="f line 2: holds plain text without a template, and f line 1 holds messages"
    ):
        write([chat, Feedback("q", "a", True, "f line 2")], tmp_path / f"rows{suffix}", "feedback")


def test_targets_that_cannot_be_written(tmp_path):
    with pytest.raises(
        RequestError, match=r"no format `chatml` to write.*\n.*Write one of .jsonl, .jsonl.gz, .parquet"
    ):
        write([CHAT], tmp_path / "rows.csv", "chatml")
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot be written"):
        write([CHAT], tmp_path / "file" / "rows.jsonl")
    with pytest.raises(RequestError, match="there is no row to write"):
        write([], tmp_path / "rows.parquet")
