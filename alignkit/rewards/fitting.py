"""Whether rewards can judge answers to some prompts, asked before any answer is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from alignkit.data.prompts import Asked
from alignkit.errors import Fault
from alignkit.rewards.judged import Judged
from alignkit.rewards.mixture import kind_of, reward
from alignkit.rewards.recipe import RewardSource

ENOUGH = 1000
"""Prompts that are looked at: what is wrong with data is mostly wrong with all of it, and reading mathematics takes
milliseconds a row. What stands further behind is told when its answers are judged."""


def prompt_faults(sources: Sequence[RewardSource], prompts: Iterable[Asked], where: str) -> list[Fault]:
    """For each reward the first prompt whose answers it could not judge; and code that cannot be imported.

    ``where``: the key of the list of rewards. No weights are read. Raises RequestError for tokenizers that cannot be
    read.
    """
    faults: list[Fault] = []
    checks = []
    for at, source in enumerate(sources):
        place = f"{where}[{at}]"
        kind = kind_of(source)
        if source.function is not None:
            reward(source, allow_code=True, where=place)  # what cannot be imported is told now
        if kind.fits is not None:
            checks.append((place, source, kind.fits(source)))
    for number, asked in enumerate(prompts):
        if number >= ENOUGH or not checks:
            break
        row = judged(asked, "")
        for place, source, problem in list(checks):
            said = problem(row)
            if said is not None:
                what = f"the reward {source.said} {said} ({asked.where})"
                instead = "Give rows that have it, or take another reward."
                faults.append(Fault(where=place, what=what, instead=instead))
                checks = [one for one in checks if one[0] != place]
    return faults


def judged(asked: Asked, answer: str) -> Judged:
    """An answer to a prompt as rewards take it, with all that is known of the prompt's row."""
    return Judged(
        prompt=asked.prompt,
        answer=answer,
        reference=asked.reference,
        columns=asked.columns,
        tools=asked.tools,
        where=asked.where,
    )
