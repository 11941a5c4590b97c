"""Preference pairs, feedback and ranked lists in the spellings they have on the hub; what no stage could learn from."""

from __future__ import annotations

import json

import pytest

from alignkit.data.rows import Feedback, Preference, Ranking, Row
from alignkit.errors import RequestError
from tests.data.converting import ANSWER, FIRST, SCHEMA, SYSTEM, USER, convert, converter

WORSE = {"role": "assistant", "content": "b"}
NEXT = {"role": "user", "content": "r"}


@pytest.mark.parametrize(
    ("values", "prompt"),
    [
        ({"prompt": [USER], "chosen": [ANSWER], "rejected": [WORSE]}, [USER]),
        ({"prompt": [USER], "chosen": "a", "rejected": "b"}, [USER]),
        ({"prompt": "q", "chosen": [ANSWER], "rejected": [WORSE]}, [USER]),
        ({"chosen": [USER, ANSWER], "rejected": [USER, WORSE]}, [USER]),
        ({"chosen": json.dumps([USER, ANSWER]), "rejected": json.dumps([USER, WORSE])}, [USER]),
        ({"chosen": [SYSTEM, USER, ANSWER], "rejected": [SYSTEM, USER, WORSE]}, [SYSTEM, USER]),
        # UltraFeedback: the prompt as text, both as whole conversations, the chosen one twice.
        (
            {
                "prompt": "q",
                "prompt_id": "x",
                "chosen": [USER, ANSWER],
                "rejected": [USER, WORSE],
                "messages": [USER, ANSWER],
            },
            [USER],
        ),
        ({"chosen": [USER, ANSWER], "rejected": [USER, WORSE], "messages": [USER, ANSWER]}, [USER]),
        # hh-rlhf
        ({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}, [USER]),
        ({"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": " a", "rejected": " b"}, [USER]),
        (
            {
                "chosen": "\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: a",
                "rejected": "\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: b",
            },
            [USER, ANSWER, NEXT],
        ),
        # Orca's and StackExchange's
        ({"system": "s", "question": "q", "chosen": "a", "rejected": "b"}, [SYSTEM, USER]),
        ({"question": "q", "response_j": "a", "response_k": "b"}, [USER]),
        ({"instruction": "q", "chosen_response": "a", "rejected_response": "b"}, [USER]),
        ({"instruction": "q", "input": "m", "chosen": "a", "rejected": "b"}, [{"role": "user", "content": "q\nm"}]),
        # LLaMA-Factory: a conversation to answer, and single messages
        (
            {
                "conversations": [{"from": "human", "value": "q"}],
                "chosen": {"from": "gpt", "value": "a"},
                "rejected": {"from": "gpt", "value": "b"},
            },
            [USER],
        ),
    ],
)
def test_pairs_of_conversations(values, prompt):
    assert convert("preference", **values) == Preference(prompt, [ANSWER], [WORSE], FIRST)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"prompt": "q ", "chosen": "a", "rejected": "b"}, ("q ", "a", "b")),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, ("", "a", "b")),
        ({"chosen": "The sky is blue.", "rejected": "The sky is green."}, ("The sky is", " blue.", " green.")),
        ({"chosen": "The sky is blue", "rejected": "The sky is blueish"}, ("The sky is", " blue", " blueish")),
        ({"chosen": "Yes", "rejected": "Yes, but"}, ("", "Yes", "Yes, but")),
        ({"chosen": "Q: one\nA: two", "rejected": "Q: one\nno"}, ("Q: one\n", "A: two", "no")),
    ],
)
def test_pairs_of_plain_text(values, expected):
    assert "without a template" in converter(values, "preference").said
    assert convert("preference", **values) == Preference(*expected, FIRST)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"chosen_score": 8, "rejected_score": 2.5}, (8.0, 2.5)),
        ({"score_chosen": 8, "score_rejected": "2"}, (8.0, 2.0)),
        ({"chosen_avg_rating": 8, "rejected_avg_rating": None}, (8.0, None)),
        ({"margin": 3}, (3.0, 0.0)),
        ({"margin": None}, (None, None)),
    ],
)
def test_scores_of_a_pair(scores, expected):
    pair = convert("preference", prompt="q", chosen="a", rejected="b", **scores)
    assert (pair.chosen_score, pair.rejected_score) == expected


def test_a_pair_scored_the_other_way_round_is_counted():
    values = {"prompt": "q", "chosen": "a", "rejected": "b", "chosen_score": 1, "rejected_score": 2}
    found = converter(values, "preference")
    found(Row(values, FIRST))
    assert found.notes == {"pairs whose chosen answer has the lower score": 1}


def test_tools_of_a_pair_go_along():
    pair = convert("preference", prompt=[USER], chosen=[ANSWER], rejected=[WORSE], tools=[SCHEMA])
    assert pair.tools == [{"type": "function", "function": SCHEMA}]


def test_a_prompt_column_that_says_something_else_is_counted():
    values = {"prompt": "other", "chosen": [USER, ANSWER], "rejected": [USER, WORSE]}
    found = converter(values, "preference")
    assert found(Row(values, FIRST))[0].prompt == [USER]
    assert any("prompt column differs" in note for note in found.notes)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"prompt": [USER], "chosen": [ANSWER], "rejected": [ANSWER]}, "`chosen` and `rejected` say the same"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "say the same"),
        ({"prompt": [USER], "chosen": [ANSWER, NEXT], "rejected": [ANSWER]}, "say the same"),
        ({"chosen": [5], "rejected": [USER, WORSE]}, "turn 1 of `chosen`: is a number"),
        (
            {"chosen": [{"role": "x"}, ANSWER], "rejected": [USER, WORSE]},
            "turn 1 of `chosen`: has the unknown role `x`",
        ),
        (
            {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant:"},
            "column `rejected`: is an empty answer",
        ),
        ({"prompt": "q", "chosen": "a", "rejected": " "}, "column `rejected` is empty"),
        (
            {"prompt": [USER], "chosen": [ANSWER], "rejected": [{**WORSE, "content": ""}]},
            "`rejected`: is an empty answer",
        ),
        ({"prompt": [USER], "chosen": [ANSWER], "rejected": None}, "column `rejected` holds null"),
        ({"chosen": [ANSWER], "rejected": [WORSE]}, "has no prompt"),
        ({"chosen": [USER, ANSWER], "rejected": [NEXT, WORSE]}, "part before an answer"),
        ({"chosen": [USER, ANSWER], "rejected": [USER]}, "part before an answer"),
        ({"prompt": [USER, ANSWER], "chosen": [ANSWER], "rejected": [WORSE]}, "ends with the assistant's turn `a`"),
        ({"prompt": [USER, USER], "chosen": [ANSWER], "rejected": [WORSE]}, "turn 2: is a second user turn"),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "chosen_score": "x", "rejected_score": 1}, "must be a number"),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "margin": [1]}, "column `margin` holds"),
    ],
)
def test_pairs_nothing_can_be_learned_from(values, said):
    with pytest.raises(RequestError, match=said) as caught:
        convert("preference", **values)
    assert str(caught.value).startswith(FIRST)


def test_a_transcript_that_does_not_begin_as_one():
    found = converter(
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}, "preference"
    )
    with pytest.raises(RequestError, match="does not begin with `Human:`"):
        found(Row({"chosen": "hello", "rejected": "\n\nHuman: q\n\nAssistant: b"}, FIRST))


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": [USER], "completion": [ANSWER]},
        {"prompt": [USER], "completion": "a"},
        {"question": "q", "response": "a"},
        {"messages": [USER, ANSWER]},
        {"prompt": "Human: q\n\nAssistant: ", "completion": " a"},
    ],
)
def test_feedback_on_conversations(values):
    assert convert("feedback", **values, label=True) == Feedback([USER], [ANSWER], True, FIRST)


@pytest.mark.parametrize(
    ("label", "expected"),
    [(True, True), (False, False), (1, True), (0, False), (0.0, False), ("true", True), ("False", False), ("1", True)],
)
def test_labels_of_feedback(label, expected):
    assert convert("feedback", prompt="q", completion="a", label=label) == Feedback("q", "a", expected, FIRST)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"prompt": "q", "completion": "a", "label": "maybe"},
            "`label` holds `maybe`, which is neither true nor false",
        ),
        ({"prompt": "q", "completion": "a", "label": None}, "`label` holds `null`"),
        ({"prompt": "q", "completion": "a", "label": 2}, "neither true nor false"),
        ({"prompt": "q", "completion": "", "label": True}, "column `completion` is empty"),
    ],
)
def test_feedback_nothing_can_be_learned_from(values, said):
    found = converter({"prompt": "q", "completion": "a", "label": True}, "feedback")
    with pytest.raises(RequestError, match=said):
        found(Row(values, FIRST))


def test_feedback_whose_conversation_ends_with_the_user():
    found = converter({"messages": [USER, ANSWER], "label": True}, "feedback")
    with pytest.raises(RequestError, match="no answer to judge"):
        found(Row({"messages": [USER], "label": True}, FIRST))


def test_labels_that_begin_with_null_are_still_feedback():
    found = converter({"prompt": "q", "completion": "a", "label": None})
    assert found.said.endswith("→ the answers that were wanted")
    assert found(Row({"prompt": "q", "completion": "a", "label": False}, "line 2")) == []


def test_a_label_that_is_a_class_is_no_feedback():
    assert converter({"prompt": "q", "completion": "a", "label": "maths"}).name.startswith("prompt and completion")


@pytest.mark.parametrize(
    ("values", "scores"),
    [
        ({"answers": ["b", "a"], "scores": [1, 2]}, (2.0, 1.0)),
        ({"responses": ["b", "a"], "ranks": [2, 1]}, None),
        (
            {"completions": [{"response": "b", "overall_score": 1.0}, {"response": "a", "overall_score": 9.0}]},
            (9.0, 1.0),
        ),
        ({"answers": [{"answer": "b", "rank": 2.0, "model": "x"}, {"answer": "a", "rank": 1.0, "model": "y"}]}, None),
    ],
)
def test_rankings(values, scores):
    plain = convert("ranking", prompt="q", **values)
    assert plain == Ranking("q", ("a", "b"), FIRST, scores)
    chat = convert("ranking", instruction="q", **values)
    assert chat == Ranking([USER], ([ANSWER], [WORSE]), FIRST, scores)


def test_ranking_of_messages():
    found = convert("ranking", prompt=[SYSTEM, USER], answers=[[WORSE], [ANSWER]], scores=[0, 1])
    assert found == Ranking([SYSTEM, USER], ([ANSWER], [WORSE]), FIRST, (1.0, 0.0))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"answers": ["a"], "scores": [1]}, "holds 1 answers"),
        ({"answers": ["a", "b"], "scores": [1]}, "holds 1 values for 2 answers"),
        ({"answers": ["a", "b"], "scores": [1, None]}, "`scores` holds `null`"),
        ({"answers": ["a", "b"], "scores": [1, 1]}, "puts all answers level"),
        ({"answers": ["a", ""], "scores": [1, 2]}, "item 2 of `answers`: is an empty answer"),
        ({"answers": ["a", 5], "scores": [1, 2]}, "item 2 of `answers`: is a number"),
        ({"answers": [{"x": "a"}, {"x": "b"}], "scores": [1, 2]}, "item 1 of `answers`: has the keys x"),
    ],
)
def test_rankings_nothing_can_be_learned_from(values, said):
    with pytest.raises(RequestError, match=said):
        convert("ranking", prompt="q", **values)


def test_answers_without_an_order_are_no_ranking():
    with pytest.raises(RequestError, match=r"no format known here. Columns that would do: .*`scores` or `ranks`"):
        convert("ranking", problems="q", answers=["a", "b"])
    scored = {"prompt": "q", "answers": [{"text": "a", "score": 1}, {"text": "b", "score": 2}]}
    with pytest.raises(RequestError, match="line 2: nothing says which answer is best"):
        converter(scored, "ranking")(Row({"prompt": "q", "answers": ["a", "b"]}, "line 2"))
