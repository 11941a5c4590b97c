"""Rewards that are programs: what each says of an answer, by hand-made cases and by libraries where these know it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alignkit.errors import RequestError
from alignkit.rewards.judged import Judged
from alignkit.rewards.kinds import KINDS
from alignkit.rewards.mixture import OPTIONS, reward, source_faults
from alignkit.rewards.recipe import RewardSource

SCHEMA = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}, "additionalProperties": False}


def judge(spec: Any, *answers: str, reference: str | None = None) -> list[float]:
    return reward(spec)([Judged(prompt="p", answer=answer, reference=reference) for answer in answers])


def test_json_is_the_whole_answer_and_an_object_or_a_list() -> None:
    good = ['{"a": 1}', ' [1, {"b": null}]\n', "{}"]
    bad = ['Here: {"a": 1}', '{"a": 1} done', "12", '"text"', "", "{'a': 1}", '{"a": NaN}', '{"a": 1', "[" * 100_000]
    assert judge("json", *good, *bad) == [1.0] * len(good) + [0.0] * len(bad)


def test_a_schema_inline_or_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text('{"type": "array", "maxItems": 1}')
    answers = ['{"a": 1}', '{"a": 1, "b": 2}', '{"a": "1"}', "{}", "[1]", "[1, 2]", "no"]
    assert judge(RewardSource(name="json-schema", schema=SCHEMA), *answers) == [1, 0, 0, 0, 0, 0, 0]
    assert judge(RewardSource(name="json-schema", schema=str(file)), *answers) == [0, 0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize(
    ("schema", "said"),
    [({"type": "nothing"}, "#/type holds 'nothing'"), ("gone.json", "could not be read as JSON")],
)
def test_a_schema_that_is_none(schema: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        reward(RewardSource(name="json-schema", schema=schema))


def test_a_schema_fetches_nothing() -> None:
    with pytest.raises(RequestError, match="only references within the schema"):
        reward(RewardSource(name="json-schema", schema={"$ref": "https://example.invalid/other.json"}))


def test_exact_knows_json_numbers_and_text() -> None:
    assert judge("exact", "It is 42.", "43", reference="42") == [1.0, 0.0]
    assert judge("exact", '{"b": 2, "a": 1}', '{"a": 1}', reference='{"a": 1, "b": 2}') == [1.0, 0.0]
    assert judge("exact", "paris", "Rome", reference="Paris") == [1.0, 0.0]


def test_regex_is_searched_for_across_lines() -> None:
    source = RewardSource(name="regex", pattern=r"<a>.*</a>\Z")
    assert judge(source, "<a>x\ny</a>", "<a>x</a> more", "x") == [1.0, 0.0, 0.0]


def test_length_with_and_without_a_target() -> None:
    assert judge("length", "one two  three\n", "") == [3.0, 0.0]
    assert judge(RewardSource(name="length", unit="characters"), "abcd") == [4.0]
    near = RewardSource(name="length", target=4)
    assert judge(near, "a b c d", "a b", "a b c d e f", "", " ".join("a" * 40)) == [1.0, 0.5, 0.5, 0.0, -1.0]


def test_repetition_counts_runs_of_words_said_before() -> None:
    # Runs of three: abc bca cab abc bca, of which three are different.
    assert judge("repetition", "a b c a b c a", "one two three four", "a b") == [pytest.approx(-2 / 5), 0.0, 0.0]
    assert judge(RewardSource(name="repetition", ngram=1), "a A b a") == [pytest.approx(-0.5)]


@pytest.mark.parametrize("name", [name for name in KINDS if name != "function"])
def test_each_reward_says_which_options_it_reads(name: str) -> None:
    """Every option that is set and not read is a fault, every one that is needed and not set too."""
    from alignkit.config.sections import Model

    values: dict[str, Any] = {
        "model": Model(name="./nowhere"),
        "pattern": "a",
        "schema": {},
        "target": 3,
        "unit": "words",
        "ngram": 2,
        "template": "{answer}",
        "column": "solution",
    }
    assert set(values) == set(OPTIONS)
    kind = KINDS[name]
    needed = {option: values[option] for option in kind.needs}
    for option in OPTIONS:
        faults = [
            fault.where for fault in source_faults(RewardSource(name=name, **needed | {option: values[option]}), "r")
        ]
        assert (f"r.{option}" in faults) == (option not in kind.reads), option
    for option in kind.needs:
        faults = [fault.where for fault in source_faults(RewardSource(name=name), "r")]
        assert f"r.{option}" in faults


def test_a_name_that_is_none_is_told_with_those_that_are() -> None:
    with pytest.raises(RequestError, match=r"there is no reward 'jsn'\. Did you mean json"):
        reward("jsn")


def test_the_options_change_what_is_said() -> None:
    """No option is read and then ignored."""
    answer = "one two two two two"
    assert judge("repetition", answer) != judge(RewardSource(name="repetition", ngram=1), answer)
    assert judge("length", answer) != judge(RewardSource(name="length", target=9), answer)
    assert judge("length", answer) != judge(RewardSource(name="length", unit="characters"), answer)
