"""On-policy rows: of each step a part is answered by the student as it is then, and the teacher marks those answers.

What is drawn is a function of (seed, step, place in the step), so a resumed run draws the same, and how many rows go
through the model at once changes nothing (in fp32).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from alignkit.data.batching import Collator
from alignkit.data.rows import UNTRAINED, Encoded
from alignkit.errors import Fault, RequestError
from alignkit.evaluation.sampling import sample_ids
from alignkit.stages.distill.recipe import OnPolicy

COIN = 0x6B64
"""Tells the chances of who answers from those of the answers' tokens."""


class Rollouts:
    """The student's answers in the place of the data's."""

    def __init__(
        self,
        options: OnPolicy,
        collate: Collator,
        *,
        stop: Collection[int],
        pad_id: int,
        seed: int,
    ) -> None:
        """``stop``: tokens that end an answer."""
        self.options, self.collate = options, collate
        self.stop, self.pad_id, self.seed = stop, pad_id, seed
        self._drawn = self._rows = self._tokens = self._ended = 0

    def collated(self, features: Sequence[Any]) -> dict[str, Any]:
        """A batch that remembers its rows, under `features`."""
        return {**self.collate(features), "features": list(features)}

    def answered(self, model: Any, batches: Sequence[Mapping[str, Any]], *, step: int) -> list[dict[str, Any]]:
        """The micro-batches of step ``step``, in which some rows have an answer of ``model``."""
        rows: list[Encoded] = [row for batch in batches for row in batch["features"]]
        coins = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, step, COIN]))).random(len(rows))
        chosen = [number for number in range(len(rows)) if coins[number] < self.options.share]
        prompts = [rows[number].input_ids[: answer_start(rows[number].labels)] for number in chosen]
        written = sample_ids(
            model,
            prompts,
            stop=self.stop,
            pad_id=self.pad_id,
            max_new_tokens=self.options.max_new_tokens,
            temperature=self.options.temperature,
            top_p=self.options.top_p,
            # A stream for each step: SeedSequence takes integers of any size.
            seed=self.seed * 2**32 + step,
            batch=self.options.batch,
            numbers=chosen,
        )
        self._rows, self._drawn, self._tokens, self._ended = len(rows), 0, 0, 0
        for number, prompt, [answer] in zip(chosen, prompts, written, strict=True):
            if not answer:  # the prompt fills the model's context: the data's answer stays
                continue
            labels = [UNTRAINED] * len(prompt) + answer
            rows[number] = Encoded(prompt + answer, labels, rows[number].where)
            self._drawn += 1
            self._tokens += len(answer)
            self._ended += answer[-1] in self.stop
        at, found = 0, []
        for batch in batches:
            count = len(batch["features"])
            found.append(self.collated(rows[at : at + count]))
            at += count
        return found

    def figures(self) -> dict[str, float]:
        """Of the last step: the share of rows that the student answered, tokens of its answers, share that it ended
        itself."""
        drawn = max(1, self._drawn)
        return {
            "on_policy": self._drawn / max(1, self._rows),
            "answer_tokens": self._tokens / drawn,
            "ended": self._ended / drawn,
        }


def answer_start(labels: Sequence[int]) -> int:
    """Where the last answer of a row begins: the first token of its last run of labels. 0 where there is none."""
    end = len(labels)
    while end and labels[end - 1] == UNTRAINED:
        end -= 1
    start = end
    while start and labels[start - 1] != UNTRAINED:
        start -= 1
    return start


def require_prompts(rows: Sequence[Encoded]) -> None:
    """Raises RequestError where a row leaves the student nothing to answer."""
    for row in rows:
        if answer_start(row.labels) < 1 or row.labels[0] != UNTRAINED:
            raise RequestError(
                Fault(
                    where=row.where,
                    what="asks nothing that a student could answer: it is raw text, or begins with its answer",
                    instead="Give prompts with answers, or write distill.mode=logits.",
                )
            )
