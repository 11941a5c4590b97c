"""Rewards get what belongs to an answer, and what they say comes back with it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from alignkit.errors import NumericsError
from alignkit.rewards.judged import EachReward, Judged
from alignkit.rewards.mixture import Rewards
from alignkit.rollouts.judging import judge
from tests.rollouts.making import random_answers, some_prompts


def test_each_answer_is_judged_with_its_own_prompt(tmp_path: Path) -> None:
    prompts, seen = some_prompts(tmp_path), []
    answers = random_answers([[2, 3], [4], [1, 1]])

    def look(row: Judged) -> float:
        seen.append(row)
        return float(row.columns["level"])

    rewards = Rewards([(EachReward("level", look), 2.0), (EachReward("letters", lambda row: len(row.answer)), -1.0)])
    found = judge(answers, prompts, rewards)
    assert [(row.prompt, row.reference, row.answer, row.where) for row in seen] == [
        (prompts[one.prompt].prompt, str(one.prompt), one.text, one.where) for one in answers
    ]
    assert [one.reward for one in found] == [2.0 * one.prompt - len(one.text) for one in answers]
    assert [one.parts for one in found] == [{"level": float(a.prompt), "letters": len(a.text)} for a in answers]
    assert [(one.ids, one.sample) for one in found] == [(one.ids, one.sample) for one in answers]


def test_a_reward_that_fails_stops_or_is_noted(tmp_path: Path) -> None:
    prompts, answers = some_prompts(tmp_path), random_answers([[2, 3], [4]])

    def odd(row: Judged) -> float:
        return math.nan if len(row.answer) == 3 else 1.0

    with pytest.raises(NumericsError, match="Answer: "):
        judge(answers, prompts, Rewards([(EachReward("odd", odd), 1.0)]))
    found = judge(answers, prompts, Rewards([(EachReward("odd", odd), 1.0)], skip=True))
    assert [math.isnan(one.reward) for one in found] == [False, True, False]
    assert [one.problem for one in found] == [None, "odd gave nan", None]
