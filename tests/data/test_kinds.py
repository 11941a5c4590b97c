"""From one kind to another where that is honest, said out loud; refused with the reason and the fix elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from alignkit.data.formats.kinds import CONVERSIONS, refusal
from alignkit.data.rows import Completion, Conversation, Feedback, Kind, Preference, Prompt, Ranking, Row, Text
from alignkit.errors import RequestError
from tests.data.converting import ANSWER, FIRST, SYSTEM, USER, converter

WORSE = {"role": "assistant", "content": "b"}
PAIR = {"prompt": [USER], "chosen": [ANSWER], "rejected": [WORSE]}
PLAIN_PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}
GOOD = {"prompt": [USER], "completion": [ANSWER], "label": True}
BAD = {"prompt": [USER], "completion": [WORSE], "label": False}
RANKED = {"prompt": [USER], "answers": ["b", "a", "c"], "scores": [2, 3, 1]}
THIRD = {"role": "assistant", "content": "c"}


@pytest.mark.parametrize(
    ("values", "wants", "documents", "said"),
    [
        (PAIR, "demonstration", [Conversation([USER, ANSWER], FIRST)], "→ the chosen answers"),
        (PLAIN_PAIR, "demonstration", [Completion("q", "a", FIRST)], "→ the chosen answers"),
        (
            {**PAIR, "prompt": [SYSTEM, USER, ANSWER, USER]},
            "demonstration",
            [Conversation([SYSTEM, USER, ANSWER, USER, ANSWER], FIRST, weights=(0, 0, 0, 0, 1))],
            "→ the chosen answers",
        ),
        (
            PAIR,
            "feedback",
            [Feedback([USER], [ANSWER], True, FIRST), Feedback([USER], [WORSE], False, FIRST)],
            "→ two rows of unpaired feedback each",
        ),
        (PAIR, "ranking", [Ranking([USER], ([ANSWER], [WORSE]), FIRST)], "→ two ranked answers each"),
        (PAIR, "prompt", [Prompt([USER], FIRST)], "→ the prompts"),
        (GOOD, "demonstration", [Conversation([USER, ANSWER], FIRST)], "→ the answers that were wanted"),
        (BAD, "demonstration", [], "→ the answers that were wanted"),
        (GOOD, "prompt", [Prompt([USER], FIRST)], "→ the prompts"),
        (RANKED, "demonstration", [Conversation([USER, ANSWER], FIRST)], "→ the best answers"),
        (
            RANKED,
            "preference",
            [Preference([USER], [ANSWER], [THIRD], FIRST, 3.0, 1.0)],
            "→ pairs, the best answer against the worst",
        ),
        (RANKED, "prompt", [Prompt([USER], FIRST)], "→ the prompts"),
        ({"messages": [USER, ANSWER, USER, WORSE]}, "prompt", [Prompt([USER, ANSWER, USER], FIRST)], "→ the prompts"),
        ({"messages": [SYSTEM, USER]}, "prompt", [Prompt([SYSTEM, USER], FIRST)], "→ the prompts"),
        ({"prompt": "q", "completion": "7", "answer": 7}, "prompt", [Prompt("q", FIRST, "7")], "→ the prompts"),
        ({"sentence": "t", "label": 1}, "demonstration", [Text("t", FIRST)], "→ raw text, the label ignored"),
        ({"text": "t", "label": 1}, "demonstration", [Text("t", FIRST)], "ignored: label"),
    ],
)
def test_conversions(values, wants, documents, said):
    found = converter(values, wants)
    assert said in found.said
    assert found.kind == wants
    beside = [replace(one, columns=values) if isinstance(one, Prompt) else one for one in documents]
    assert found(Row(values, FIRST)) == beside


def test_unwanted_answers_are_counted():
    found = converter(GOOD)
    for values in (GOOD, BAD, BAD):
        found(Row(values, FIRST))
    assert found.notes == {"answers marked as not wanted, left out": 2}


@pytest.mark.parametrize("wants", ["feedback", "ranking"])
def test_tools_that_get_lost_are_counted(wants):
    values = {**PAIR, "tools": [{"name": "f"}]}
    found = converter(values, wants)
    found(Row(values, FIRST))
    assert list(found.notes.values()) == [1] and "tools" in next(iter(found.notes))


def test_raw_text_of_labelled_rows_may_be_split():
    assert converter({"sentence": "t", "label": 1}).raw_text
    assert not converter({"sentence": "t", "label": 1}, "labelled").raw_text
    assert not converter({"prompt": "q", "completion": "a"}).raw_text


ROWS: dict[Kind, dict] = {
    "demonstration": {"messages": [USER, ANSWER]},
    "preference": {**PAIR, "chosen_score": 2, "rejected_score": 1},
    "feedback": GOOD,
    "scored": {"prompt": [USER], "completion": [ANSWER], "score": 3},
    "ranking": RANKED,
    "prompt": {"prompt": [USER], "ground_truth": "7"},
    "labelled": {"sentence": "t", "label": 1},
}


@pytest.mark.parametrize("wants", get_args(Kind))
@pytest.mark.parametrize("found", get_args(Kind))
def test_every_pair_of_kinds_is_converted_or_refused_with_a_fix(found, wants):
    values = ROWS[found]
    # A number beside an answer is looked at by who wants one, or where the format is named.
    named = {"format": "scored"} if found == "scored" else {}
    if found == wants or (found, wants) in CONVERSIONS:
        assert converter(values, wants, **named)(Row(values, FIRST))
        return
    with pytest.raises(RequestError, match="the stage wants") as caught:
        converter(values, wants, **named)
    assert caught.value.faults[0].instead.startswith("Give data with the columns `")


def test_reasons_of_refusals():
    assert "a pair needs a worse answer too" in refusal("demonstration", "preference").what
    assert "nothing says which answers were not wanted" in refusal("demonstration", "feedback").what
    assert "not paired" in refusal("feedback", "preference").what
    assert "data.columns={question: prompt, answer: ground_truth}" in refusal("prompt", "demonstration").instead


def test_raw_text_asks_nothing():
    with pytest.raises(RequestError, match="raw text asks nothing"):
        converter({"text": "t"}, "prompt")


def test_whatever_the_rows_are():
    kinds = {name: converter(values, None).kind for name, values in ROWS.items()}
    assert kinds.pop("scored") == "demonstration" and list(kinds) == list(kinds.values())


def test_best_and_worst_that_say_the_same():
    values = {**RANKED, "answers": ["a", "b", "a"], "scores": [3, 2, 1]}
    with pytest.raises(RequestError, match="the best and the worst answer say the same"):
        converter(values, "preference")(Row(values, FIRST))
