"""Did it work: what the answers to held-out prompts are worth, before and after training and on the way.

Two rewards look at the same answers: the one that is optimized, and the true metric that nothing learns from. The
prompts and the chances with which answers are drawn are the same each time, so changes are taken prompt by prompt.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from alignkit.data.prompts import Asked
from alignkit.errors import Fault, RequestError
from alignkit.evaluation.answering import answered_ids
from alignkit.evaluation.drawn import log_ratios
from alignkit.evaluation.policy import PolicyScores
from alignkit.evaluation.sampling import Sample
from alignkit.evaluation.scores import Graded, wilson
from alignkit.evaluation.statistics import bootstrap_interval, controlled_mean
from alignkit.rewards.judged import Judged
from alignkit.rewards.mixture import Rewards
from alignkit.stages.rlhf.figures import named, repeated
from alignkit.stages.rlhf.recipe_watch import PolicyEvaluation, StopOptions
from alignkit.stages.rlhf.stops import Look, change
from alignkit.stages.rlhf.watch import PolicyWatch

Reference: TypeAlias = Callable[[], AbstractContextManager[Any]]
"""The reference as a model that can be called while the context lasts: the policy with its adapter off, or a copy."""

NAME = 32
"""Characters of a metric's name in a table."""


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What stays the same for every evaluation of a run."""

    section: PolicyEvaluation
    stop: StopOptions
    max_new_tokens: int
    """Longest answer where the section says nothing: the budget of the rollouts."""
    seed: int
    tokenizer: Any
    held_out: Sequence[Asked]
    rewards: Rewards
    """What is optimized."""
    true: Rewards | None = None
    """What the answers are truly worth; None: what is optimized."""
    reference: Reference
    computing: Callable[[], AbstractContextManager[None]] = nullcontext
    """The number format of training. Without it a trained model, around which its trainer left an autocast, would be
    told from its reference by rounding."""
    watch: PolicyWatch
    """Hears of every evaluation, warns, and remembers what it was before training."""
    start: str | None = None
    """A digest of all that decides what the model says that training starts from: its answers are then asked for once,
    whatever is trained from it. None: at every run."""

    @property
    def true_name(self) -> str:
        """What the true metric is called: its rewards' names, or how many they are; of a function's path the end."""
        parts = (self.true or self.rewards).parts
        joined = "+".join(name.rpartition("/")[2] for name in parts)
        return joined if len(joined) <= NAME else f"{len(parts)} rewards" if len(parts) > 1 else f"…{joined[-NAME:]}"

    def before(self, model: Any) -> PolicyScores:
        """Scores of the model that training starts from. Its KL to itself is 0."""
        self.watch.started = None  # what an earlier evaluation of the run found
        self.watch.started = self._scores(model, self._evaluated, reference=None, known_as=self.start)
        return self.watch.started

    def after(self, model: Any) -> PolicyScores:
        """Scores of the trained model, with what changed since before training."""
        scores = self._since_start(self._scores(model, self._evaluated, reference=self.reference))
        return replace(scores, warnings=self.watch.end(scores))

    def now(self, model: Any, rows: int | None) -> dict[str, float]:
        """Figures of the first ``rows`` held-out prompts (None: all) while training goes on, by the names of
        ``figures.named``; changes only where as many prompts were answered before training."""
        found = named(self._since_start(self._scores(model, self.held_out[:rows], reference=self.reference)))
        self.watch.note(found)
        return found

    def look(self, model: Any, step: int) -> tuple[Look, dict[str, float]]:
        """The true metric on the prompts that `rlhf.stop` looks at, which are the last ones, and their figures."""
        scores = self._scores(model, self._looked_at, reference=None if step == 0 else self.reference)
        return Look(step, tuple(scores.true_values), tuple(scores.reward_values)), named(scores)

    @property
    def overlap(self) -> int:
        """Prompts that are both looked at for `rlhf.stop` and evaluated before and after."""
        return max(0, len(self._looked_at) + len(self._evaluated) - len(self.held_out))

    @property
    def _evaluated(self) -> Sequence[Asked]:
        return self.held_out[: self.section.rows]

    @property
    def _looked_at(self) -> Sequence[Asked]:
        return self.held_out[max(0, len(self.held_out) - self.stop.rows) :]

    def _scores(
        self, model: Any, asked: Sequence[Asked], *, reference: Reference | None, known_as: str | None = None
    ) -> PolicyScores:
        if not len(asked):
            raise RequestError(
                Fault(
                    where="data.holdout",
                    what="no held-out prompt is left to answer",
                    instead="Hold out more rows, or write evaluation.rows=0 and rlhf.stop.every=null.",
                )
            )
        began = time.monotonic()
        rows = list(asked)  # each is read from its store once
        greedy = self.section.answers == "greedy"
        drawn = self._answers(model, rows, 1.0, known_as)
        kl, kl_interval = 0.0, (0.0, 0.0)
        if reference is not None:
            with self.computing():
                ratios = log_ratios(model, self.tokenizer, [row.ids for row in rows], drawn, reference)
            kl, kl_interval = controlled_mean(*ratios)
        judged = self._answers(model, rows, 0.0, known_as) if greedy else drawn
        answers = [_judged(row, answer) for row, answer in zip(rows, judged, strict=True)]
        reward = self.rewards(answers)
        true = reward.total if self.true is None else self.true(answers).total
        # Numbers may happen to be 0 or 1 at one time: they are shares where they were before training too.
        share = _right_or_wrong(true) and (self.watch.started is None or self.watch.started.share)
        tokens = [len(answer.ids) for answer in drawn]
        true_mean, true_interval = _mean(true)
        reward_mean, reward_interval = _mean(reward.total)
        return PolicyScores(
            rows=len(rows),
            true_name=self.true_name,
            true_values=true,
            share=share,
            true_reward=true_mean,
            true_reward_interval=true_interval,
            apart=self.true is not None,
            reward=reward_mean,
            reward_interval=reward_interval,
            reward_values=reward.total,
            parts={name: _mean(values)[0] for name, values in reward.parts.items()},
            kl=kl,
            kl_interval=kl_interval,
            kl_per_token=kl * len(rows) / max(1, sum(tokens)),
            length=float(np.mean(tokens)),
            cut=float(np.mean([not answer.finished for answer in drawn])),
            repetition=float(np.mean([repeated(answer.ids) for answer in drawn])),
            greedy=greedy,
            answers=_shown(answers, judged, true, share=share)[: self.section.samples],
            seconds=time.monotonic() - began,
        )

    def _answers(self, model: Any, rows: Sequence[Asked], temperature: float, known_as: str | None) -> list[Sample]:
        with self.computing():
            return answered_ids(
                model,
                self.tokenizer,
                [row.ids for row in rows],
                what="held-out prompts",
                max_new_tokens=self.section.max_new_tokens or self.max_new_tokens,
                temperature=temperature,
                seed=self.seed,
                batch=self.section.batch,
                known_as=known_as,
            )

    def _since_start(self, scores: PolicyScores) -> PolicyScores:
        """The scores with what changed, prompt by prompt; as they are where other prompts were answered before
        training, or were judged by something else."""
        started = self.watch.started
        if started is None or started.rows < scores.rows:
            return scores
        if (started.true_name, started.greedy) != (scores.true_name, scores.greedy):
            return scores
        true = change(scores.true_values, started.true_values[: scores.rows])
        reward = change(scores.reward_values, started.reward_values[: scores.rows])
        return replace(
            scores,
            change=true[0] if true else None,
            change_interval=true[1] if true else None,
            reward_change=reward[0] if reward else None,
            reward_change_interval=reward[1] if reward else None,
        )


def _judged(row: Asked, answer: Sample) -> Judged:
    return Judged(
        prompt=row.prompt,
        answer=answer.text,
        reference=row.reference,
        columns=row.columns,
        tools=row.tools,
        where=row.where,
    )


def _mean(values: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Of the numbers among the values, with its 95% interval: Wilson's of a share, else by the bootstrap."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return math.nan, (math.nan, math.nan)
    if _right_or_wrong(known):
        return sum(known) / len(known), wilson(sum(known), len(known))
    return math.fsum(known) / len(known), bootstrap_interval(known)


def _right_or_wrong(values: Sequence[float]) -> bool:
    """Whether the numbers among the values say nothing else, and there are some."""
    known = [value for value in values if math.isfinite(value)]
    return bool(known) and all(value in (0.0, 1.0) for value in known)


def _shown(rows: Sequence[Judged], answers: Sequence[Sample], values: Sequence[float], *, share: bool) -> list[Graded]:
    """Answers for people: marked right or wrong where the metric says nothing else, else behind their number."""
    return [
        Graded(
            prompt=row.prompt if isinstance(row.prompt, str) else str(row.prompt[-1].get("content") or ""),
            reference=row.reference,
            answer=row.answer if share else f"[{value:+.3f}] {row.answer}",
            correct=value == 1.0 if share else None,
            finished=answer.finished,
            where=row.where,
        )
        for row, answer, value in zip(rows, answers, values, strict=True)
    ]
