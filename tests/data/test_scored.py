"""Answers with a score: found in every spelling, made of pairs and rankings, refused without a number."""

from __future__ import annotations

from typing import Any

import pytest

from alignkit.config.sections import DataSource
from alignkit.data.formats.converter import plan
from alignkit.data.records import content_hash, document, prompt_hash, record
from alignkit.data.rows import Preference, Row, Scored
from alignkit.errors import RequestError

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def convert(values: dict[str, Any], wants: Any = "scored", **source: Any) -> list[Any]:
    row = Row(values, "line 1")
    return plan(DataSource(name="x.jsonl", **source), wants, row)(row)


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": [USER], "completion": [ANSWER], "score": 3},
        {"question": "q", "answer": "a", "score": "3.0"},
        {"instruction": "q", "response": "a", "rating": 3, "model": "x"},
        {"messages": [USER, ANSWER], "reward": 3.0},
    ],
)
def test_a_prompt_an_answer_and_a_number(values: dict[str, Any]) -> None:
    assert convert(values) == [Scored([USER], [ANSWER], 3.0, "line 1")]


def test_plain_text_and_another_column() -> None:
    values = {"prompt": "q", "completion": " a", "helpfulness": 2, "score": 9}
    assert convert(values) == [Scored("q", " a", 9.0, "line 1")]
    assert convert(values, columns={"score": "helpfulness"})[0].score == 2


def test_of_pairs_and_rankings() -> None:
    pair = {"prompt": [USER], "chosen": [ANSWER], "rejected": [{**ANSWER, "content": "b"}]}
    found = convert({**pair, "chosen_score": 4, "rejected_score": 1})
    assert [one.score for one in found] == [4, 1] and {one.prompt[0]["content"] for one in found} == {"q"}
    with pytest.raises(RequestError, match="has no score"):
        convert(pair)
    ranking = {"prompt": "q", "answers": ["a", "b", "c"], "scores": [1, 3, 2]}
    assert [(one.completion, one.score) for one in convert(ranking)] == [("b", 3), ("c", 2), ("a", 1)]
    with pytest.raises(RequestError, match="ranks and no scores"):
        convert({"prompt": "q", "answers": ["a", "b"], "ranks": [1, 2]})


@pytest.mark.parametrize("value", [None, "good", float("nan"), float("inf"), True, [1]])
def test_what_is_no_number(value: Any) -> None:
    with pytest.raises(RequestError, match=r"`score` (is empty|holds .* must be a number)"):
        convert({"prompt": "q", "completion": "a", "score": value})


def test_other_kinds_are_refused_with_a_reason() -> None:
    with pytest.raises(RequestError, match=r"yes and no are no scores.*reward\.learn=labels"):
        convert({"prompt": "q", "completion": "a", "label": True})
    with pytest.raises(RequestError, match="no column says what an answer is worth"):
        convert({"prompt": "q", "completion": "a"})


def test_demonstrations_with_a_score_stay_demonstrations() -> None:
    found = convert({"prompt": "q", "completion": "a", "score": 3}, wants="demonstration")
    assert type(found[0]).__name__ == "Completion"


def test_records_and_hashes() -> None:
    one, other = Scored("q", "a", 1.0, "x"), Scored("q", "a", 2.0, "x")
    assert document(record(one), "x") == one and content_hash(one) == content_hash(other)
    assert prompt_hash(one) == prompt_hash(Scored("q", "b", 1.0, "x"))


def test_the_part_of_a_benchmark_comes_along() -> None:
    values = {"prompt": "q", "chosen": "a", "rejected": "b", "subset": "hep-cpp"}
    [found] = convert(values, wants="preference")
    assert isinstance(found, Preference) and found.group == "hep-cpp"
    assert document(record(found), "line 1") == found
    [plain] = convert({"prompt": "q", "chosen": "a", "rejected": "b"}, wants="preference")
    assert plain.group is None and content_hash(plain) == content_hash(found)
