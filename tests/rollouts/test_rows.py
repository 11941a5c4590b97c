"""How answers become rows, and which of them go through the model together."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.rollouts.rows import branched, cut, micro_batches
from tests.rollouts.making import random_answers

GROUPS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=6)


def test_neighbours_with_one_prompt_share_it() -> None:
    answers = random_answers([[2, 3], [4], [1, 1]])
    rows = branched(answers)
    assert [len(row.branches) for row in rows] == [2, 1, 2]
    assert [branch.ids for row in rows for branch in row.branches] == [one.ids for one in answers]
    assert all(all(branch.scored) for row in rows for branch in row.branches)
    assert [row.trunk for row in rows] == [answers[0].trunk, answers[2].trunk, answers[3].trunk]
    apart = branched([answers[0], answers[2], answers[1]])
    assert [len(row.branches) for row in apart] == [1, 1, 1]
    assert branched([]) == []


@given(GROUPS, st.integers(1, 8), st.randoms(use_true_random=False), st.floats(0, 1))
def test_parts_hold_each_answer_once_and_groups_together(
    groups: list[list[int]], size: int, rng: random.Random, share: float
) -> None:
    answers = random_answers(groups)
    numbers = [place for place in range(len(answers)) if rng.random() <= share]
    parts = micro_batches(answers, numbers, size)
    assert sorted(place for part in parts for place in part) == numbers
    assert all(0 < len(part) <= size for part in parts)
    shuffled = rng.sample(numbers, len(numbers))
    assert micro_batches(answers, shuffled, size) == parts
    for prompt in range(len(groups)):
        own = {place for place in numbers if answers[place].prompt == prompt}
        holding = [part for part in parts if own & set(part)]
        assert len(holding) == -(-len(own) // size), "a prompt is read no more often than it must be"
        for part in holding:
            at = [where for where, place in enumerate(part) if place in own]
            assert at == list(range(at[0], at[-1] + 1)) and [part[w] for w in at] == sorted(own & set(part))


def test_the_longest_come_first() -> None:
    answers = random_answers([[2, 2], [9, 9], [5, 5]], trunks=[3, 3, 3])
    assert micro_batches(answers, range(6), 2) == [[2, 3], [4, 5], [0, 1]]
    assert micro_batches(answers, range(6), 4) == [[2, 3, 4, 5], [0, 1]]
    assert [len(part) for part in cut(branched(answers), 6, tokens=21)] == [2, 4]  # 3 + 2·9; 3 + 2·5 + 3 + 2·2
    assert [len(part) for part in cut(branched(answers), 6, tokens=19)] == [1, 1, 2, 2]
    assert [len(part) for part in cut(branched(answers), 6, tokens=1)] == [1] * 6
    with pytest.raises(ValueError, match="0 answers"):
        micro_batches(answers, range(6), 0)
