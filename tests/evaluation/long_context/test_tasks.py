"""Generated texts hold what they ask for, at the depth that they say; lengths fit any way of counting tokens."""

from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.evaluation.long_context.tasks import Task, chain, fitted, passkey, several_keys

SEEDS = st.integers(0, 10**6)


@given(SEEDS, st.integers(0, 60), st.floats(0, 1))
def test_a_passkey_stands_at_its_depth(seed: int, filler: int, depth: float) -> None:
    task = passkey(Random(seed), filler, depth)
    (key,) = task.answers
    assert re.fullmatch(r"[1-9]\d{4}", key)
    line = f"The secret number is {key}. Remember it: {key}."
    assert task.text.count(key) == 2 and task.text.count(line) == 1
    before, after = task.text.split(line)
    sentences = [part.count(".") for part in (before, after)]
    at = round(depth * filler)
    assert sentences == [at + 2, filler - at]  # two sentences say what to do
    assert task.text.endswith("The secret number is") and task.found(task.continuation) == 1.0
    assert passkey(Random(seed), filler, depth) == task


@given(SEEDS, st.integers(0, 40), st.integers(1, 8))
def test_several_keys_of_one_form(seed: int, filler: int, keys: int) -> None:
    found = several_keys(Random(seed), filler, keys)
    assert len(found) == keys
    texts = {task.text.rpartition("\n")[0] for task in found}
    assert len(texts) == 1  # one text, asked several things
    hidden = dict(re.findall(r"The code of the (\w+ \w+) is (\d{7})\.", texts.pop()))
    assert len(hidden) == keys and len(set(hidden.values())) == keys
    for task in found:
        name = re.search(r"What is the code of the (\w+ \w+)\? The code of the \1 is$", task.text)
        assert name is not None and task.answers == (hidden[name[1]],)


@given(SEEDS, st.integers(0, 40), st.integers(1, 6))
def test_a_chain_followed_by_an_interpreter(seed: int, filler: int, hops: int) -> None:
    task = chain(Random(seed), filler, hops)
    values: dict[str, str] = {}
    for name, value in re.findall(r"VAR ([A-Z]{3}) = (VAR [A-Z]{3}|\d{5})\.", task.text):
        assert name not in values
        values[name] = values[value[4:]] if value.startswith("VAR ") else value  # what is handed on stands before
    asked = re.findall(r"The variables with the value (\d{5}) are$", task.text)
    assert len(asked) == 1
    assert {name for name, value in values.items() if value == asked[0]} == set(task.answers)
    assert len(task.answers) == hops + 1
    assert len(values) == 2 * (hops + 1) + 2  # a chain that distracts, and the example
    assert task.found(task.continuation) == 1.0


@given(SEEDS)
def test_who_lists_every_variable_finds_no_more(seed: int) -> None:
    task = chain(Random(seed), 5, 4)
    named = list(dict.fromkeys(re.findall(r"VAR ([A-Z]{3}) =", task.text)))
    assert task.found(", ".join(named)) < 1.0
    others = [name for name in named if name not in task.answers]
    assert task.found(", ".join(others)) == 0.0


@pytest.mark.parametrize(
    ("written", "found"),
    [(" 12345.", 1), ("is **12345**", 1), ("123456", 0), ("912345", 0), ("", 0), ("1234", 0), ("54321 12345", 1)],
)
def test_numbers_count_where_they_stand_alone(written: str, found: float) -> None:
    assert Task("", ("12345",), "passkey", "").found(written) == found


def test_names_count_once_and_the_first_ones_only() -> None:
    task = Task("", ("ABC", "DEF"), "chain", "")
    assert task.found(" ABC, DEF.") == 1.0
    assert task.found(" ABC, ABC, DEF") == 1.0
    assert task.found(" ABC, XYZ, DEF") == 0.5
    assert task.found(" ABCD, Abc") == 0.0


@given(st.integers(0, 4000), st.sampled_from([len, lambda text: len(text.split()), lambda text: len(text) // 3]), SEEDS)
def test_as_much_filler_as_fits(limit: int, count, seed: int) -> None:  # type: ignore[no-untyped-def]
    def make(filler: int) -> str:
        return passkey(Random(seed), filler, 0.5).text

    filler = fitted(make, count, limit)
    if filler is None:
        assert count(make(0)) > limit
    else:
        assert count(make(filler)) <= limit < count(make(filler + 1))
