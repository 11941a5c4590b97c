"""Documents as bytes and back, and the hashes that hold-outs stand on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alignkit.data.records import content_hash, document, record, record_and_hash, spoken_text
from alignkit.data.rows import (
    Completion,
    Conversation,
    Document,
    Feedback,
    Labelled,
    Preference,
    Prompt,
    Ranking,
    Text,
)

CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"function": {"name": "f", "arguments": {"b": 1, "a": 2}}}],
}
CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "ä\ud800"}]
DOCUMENTS: list[Document] = [
    Conversation([{"content": 'q "\\\n\x00\x7f\u2028', "role": "user"}, {"role": 'a"b', "content": ""}], "x"),
    Conversation(CHAT, "x"),
    Conversation([*CHAT, CALL], "x", answer="42", tools=[{"z": 1, "a": 2}], weights=(0.0, 1.0, 0.5)),
    Completion("p", "c", "x", answer="c"),
    Text("raw\n", "x"),
    Preference(CHAT[:1], CHAT[1:], [CALL], "x", chosen_score=1.0, rejected_score=0.25),
    Preference("p", "good", "bad", "x"),
    Feedback("p", "c", False, "x"),
    Ranking("p", ("a", "b", CHAT), "x", scores=(3.0, 2.0, 1.0)),
    Prompt(CHAT[:1], "x", answer="4"),
    Labelled("t", "spam", "x"),
]


@pytest.mark.parametrize("given", DOCUMENTS, ids=lambda d: type(d).__name__)
def test_a_record_comes_back_as_the_document(given: Document) -> None:
    found = document(record(given), "y line 2")
    assert found == replace(given, where="y line 2")
    assert record(found) == record(given)
    assert document(record_and_hash(given)[0], "y line 2") == found
    assert record_and_hash(given)[1] == content_hash(given)


def test_the_order_of_keys_is_kept_because_templates_write_schemas_as_they_stand() -> None:
    found = document(record(DOCUMENTS[2]), "x")
    assert isinstance(found, Conversation) and found.tools
    assert list(found.tools[0]) == ["z", "a"]
    assert list(found.messages[2]["tool_calls"][0]["function"]["arguments"]) == ["b", "a"]


def test_hashes_of_plain_documents_are_those_of_earlier_versions() -> None:
    """Digits written down from the version that introduced hold-outs: a change would move rows across the line."""
    chat = Conversation([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "x")
    assert content_hash(chat).hex() == EXPECTED["chat"]
    assert content_hash(Completion("p", "c", "x")).hex() == EXPECTED["completion"]
    assert content_hash(Text("t", "x")).hex() == EXPECTED["text"]


EXPECTED = {
    "chat": "203f215c9a96f6f045cb11a70aa38861",
    "completion": "c2ed457577aa611f3f64e4412f218429",
    "text": "883e609a05d85c187a019cad93c12237",
}


def test_all_kinds_hash_apart_and_places_scores_and_weights_play_no_part() -> None:
    assert len({content_hash(given) for given in DOCUMENTS}) == len(DOCUMENTS)
    pair = DOCUMENTS[6]
    assert isinstance(pair, Preference)
    assert content_hash(replace(pair, where="y", chosen_score=9.0)) == content_hash(pair)
    assert content_hash(replace(pair, chosen="bad", rejected="good")) != content_hash(pair)
    chat = DOCUMENTS[1]
    assert isinstance(chat, Conversation)
    assert content_hash(replace(chat, weights=(0.0, 2.0), answer="1")) == content_hash(chat)
    assert content_hash(replace(chat, tools=[{"a": 1}])) != content_hash(chat)
    named = [{**CHAT[0], "name": "Ann"}, CHAT[1]]
    assert content_hash(Conversation(named, "x")) != content_hash(chat)


def test_spoken_text_holds_every_word() -> None:
    assert spoken_text(DOCUMENTS[6]) == "p\ngood\nbad"
    assert spoken_text(DOCUMENTS[2]) == "q\nä\ud800"
    assert spoken_text(DOCUMENTS[8]).endswith("a\nb\nq\nä\ud800")
