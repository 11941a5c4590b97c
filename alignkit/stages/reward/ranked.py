"""Answers with true scores, several to each prompt: what a reward model's choice among them is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.config.sections import Data
from alignkit.data.eyes.walk import walks
from alignkit.data.rows import Ranking, Said
from alignkit.errors import Fault, RequestError
from alignkit.rewards.judged import Judged, Reward


def ranked_answers(section: Data, *, rows: int, where: str) -> list[Ranking]:
    """The first rankings of a data section. Raises RequestError for a row that cannot be used (unless data.on_error is
    skip), for one that has ranks and no scores, and where there is none."""
    found: list[Ranking] = []
    for walk in walks(section, wants="ranking"):
        for row in walk:
            if row.fault is not None:
                if section.on_error == "skip":
                    continue
                raise RequestError(row.fault)
            for document in row.documents:
                assert isinstance(document, Ranking)
                if document.scores is None:
                    what = "its answers have ranks and no scores, so what a choice is worth cannot be told"
                    raise RequestError(Fault(where=row.where, what=what, instead="Give `scores`."))
                found.append(document)
            if len(found) >= rows:
                return found[:rows]
    if not found:
        raise RequestError(Fault(where=where, what=f"{section.name} holds no ranked answers", instead="Leave it out."))
    return found


def rewards_of_ranked(
    model: Any, tokenizer: Any, ranked: Sequence[Ranking], *, batch: int
) -> list[NDArray[np.float64]]:
    """For each prompt the rewards of its answers under a classifier."""
    from alignkit.rewards.kinds.model import ModelReward

    return judged_answers(ModelReward(model, tokenizer, batch=batch), ranked)


def judged_answers(reward: Reward, ranked: Sequence[Ranking]) -> list[NDArray[np.float64]]:
    """For each prompt what a reward says of its answers. Raises NumericsError for what is no finite number."""
    rows = [as_judged(one.prompt, answer, one.where) for one in ranked for answer in one.answers]
    scores = iter(reward(rows))
    return [np.array([next(scores) for _ in one.answers]) for one in ranked]


def as_judged(prompt: Said, answer: Said, where: str, tools: list[dict[str, Any]] | None = None) -> Judged:
    """An answer of the data as a reward takes it: what comes before its last turn is part of the prompt."""
    if isinstance(answer, str):
        return Judged(prompt=prompt, answer=answer, tools=tools, where=where)
    assert isinstance(prompt, list)
    *before, last = answer
    return Judged(prompt=[*prompt, *before], answer=str(last.get("content") or ""), tools=tools, where=where)
