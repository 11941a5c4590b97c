"""Rewards judge the answers of a rollout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from alignkit.data.prompts import Prompts
from alignkit.rewards.judged import Judged
from alignkit.rewards.mixture import Rewards
from alignkit.rollouts.rollout import Rolled


def judge(answers: Sequence[Rolled], prompts: Prompts, rewards: Rewards) -> list[Rolled]:
    """The answers with ``reward``, ``parts`` and ``problem``; all are judged in one call.

    Raises NumericsError, with prompt and answer, where a reward gives no finite number and that is not skipped.
    """
    asked = {number: prompts[number] for number in dict.fromkeys(one.prompt for one in answers)}
    rows = [
        Judged(
            prompt=asked[one.prompt].prompt,
            answer=one.text,
            reference=asked[one.prompt].reference,
            columns=asked[one.prompt].columns,
            tools=asked[one.prompt].tools,
            where=one.where,
        )
        for one in answers
    ]
    found = rewards(rows)
    return [
        replace(
            one,
            reward=found.total[at],
            parts={name: scores[at] for name, scores in found.parts.items()},
            problem=found.problems[at],
        )
        for at, one in enumerate(answers)
    ]
