"""Answers drawn from a model: how far it went from its reference, how long it talks, what a judge prefers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np

from alignkit.data.encoding.tokenizing import prompt_ids
from alignkit.data.rows import UNTRAINED, Encoded, HeldOut
from alignkit.evaluation.answering import answered, prompt_of
from alignkit.evaluation.preferences import Drawn
from alignkit.evaluation.sampling import Sample, pad_id
from alignkit.evaluation.scores import wilson
from alignkit.evaluation.scoring import token_log_probs
from alignkit.evaluation.statistics import controlled_mean


class Judge(Protocol):
    """Says how good answers are; higher is better."""

    @property
    def name(self) -> str: ...

    def __call__(self, prompts: Sequence[HeldOut], answers: Sequence[str]) -> list[float]: ...


def drawn_answers(
    model: Any,
    tokenizer: Any,
    rows: Sequence[HeldOut],
    *,
    reference: Callable[[], AbstractContextManager[Any]] | None,
    max_new_tokens: int,
    batch: int,
    seed: int,
    judge: Judge | None = None,
    started: Drawn | None = None,
    known_as: str | None = None,
    computing: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Drawn:
    """One answer to each row's prompt, drawn at temperature 1 from the whole distribution, and what it tells.

    Temperature 1 and no top-p, so that the mean of log policy - log reference over the answers estimates
    KL(policy || reference) of answers cut at ``max_new_tokens``. Both are scored by the same forward pass in the
    same batches, so that equal models have a KL of exactly 0. The same seed draws with the same chances from another
    model: answers before and after differ by what was learned and not by luck.

    Args:
        rows: rows whose prompt asks something.
        reference: the model to measure the distance from; None: it is ``model`` itself, at a distance of 0.
        started: the same rows' answers of the model to compare with, for the win rate.
        known_as: see ``answered``.
        computing: what both models compute in (an autocast); the judge does not.
    """
    with computing():
        answers = answered(
            model,
            tokenizer,
            rows,
            what="answers drawn",
            max_new_tokens=max_new_tokens,
            temperature=1.0,
            seed=seed,
            batch=batch,
            known_as=known_as,
        )
    tokens = sum(len(answer.ids) for answer in answers)
    kl, kl_interval = 0.0, (0.0, 0.0)
    if reference is not None:
        prompts = [prompt_ids(tokenizer, prompt_of(row), row.tools) for row in rows]
        with computing():
            ratios = log_ratios(model, tokenizer, prompts, answers, reference)
        kl, kl_interval = controlled_mean(*ratios)
    rewards = judge(rows, [answer.text for answer in answers]) if judge is not None else None
    win_rate = win_rate_interval = None
    earlier = started.rewards if started is not None and started.reward_name == _name(judge) else None
    if rewards is not None and earlier is not None and len(earlier) == len(rewards):
        wins = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(rewards, earlier, strict=True))
        win_rate, win_rate_interval = wins / len(rewards), wilson(wins, len(rewards))
    return Drawn(
        answers=len(answers),
        length=float(np.mean([len(answer.ids) for answer in answers])),
        cut=float(np.mean([not answer.finished for answer in answers])),
        kl=kl,
        kl_interval=kl_interval,
        kl_per_token=kl * len(answers) / max(1, tokens),
        rewards=rewards,
        reward_name=_name(judge),
        win_rate=win_rate,
        win_rate_interval=win_rate_interval,
    )


def log_ratios(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    answers: Sequence[Sample],
    reference: Callable[[], AbstractContextManager[Any]],
) -> tuple[list[float], list[float]]:
    """Of each answer log policy - log reference in nats, and a number whose mean over the policy's answers is 0.

    That number is the sum over the answer's tokens of reference/policy - 1: given what stands before it, a token that
    the policy draws has an expected ratio of 1. It is large where the sum of logarithms is small by luck (Schulman
    2020, "Approximating KL divergence", where it is added with a weight of 1).
    """
    said = [
        Encoded([*prompt, *answer.ids], [UNTRAINED] * len(prompt) + answer.ids, "")
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    policy = token_log_probs(model, said, pad_id=pad_id(tokenizer))
    with reference() as frozen:
        fixed = token_log_probs(frozen, said, pad_id=pad_id(tokenizer))
    differences = [(a.double() - b.double()) for a, b in zip(policy, fixed, strict=True)]
    return [float(one.sum()) for one in differences], [float((-one).expm1().sum()) for one in differences]


def _name(judge: Judge | None) -> str | None:
    return judge.name if judge is not None else None
