"""`alignkit eval MODEL reward=…`: what a reward says of the answers of any data set, and of the model's own.

Everything goes through text, so that the reward may have another vocabulary than the model.
"""

from __future__ import annotations

import gc
import heapq
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.config.sections import Data
from alignkit.console import log
from alignkit.data.eyes.walk import walks
from alignkit.data.formats.kinds import CALLED, CONVERSIONS
from alignkit.data.reading.places import locate as locate_data
from alignkit.data.records import content_hash
from alignkit.data.rows import (
    Completion,
    Conversation,
    Document,
    Feedback,
    Kind,
    Preference,
    Prompt,
    Ranking,
    Said,
    Scored,
)
from alignkit.errors import Fault, RequestError
from alignkit.evaluation import reward_figures
from alignkit.evaluation.rewarded import RewardScores
from alignkit.evaluation.scores import Graded, wilson
from alignkit.rewards.judged import Judged, Reward, as_text
from alignkit.stages.reward.asked import RewardEvalRecipe
from alignkit.stages.reward.ranked import as_judged

Floats = NDArray[np.floating[Any]]
NOTHING_JUDGED = "there is no answer in it that could be judged"


@dataclass(frozen=True)
class Answered:
    """A document: what it asks, and the answers to it, the best known first. ``judged`` is empty for bare prompts."""

    document: Document
    prompt: Prompt
    judged: list[Judged]


@dataclass(frozen=True)
class Found:
    """What a reward said of the data's answers (None: the data holds none, or they were not asked for) and of the
    model's own."""

    data: RewardScores | None
    own: RewardScores | None


def score(recipe: RewardEvalRecipe, *, every_answer: bool = False) -> Found:
    """Judge the answers that are asked for, of at most ``evaluation.rows`` rows: those with the smallest hashes.

    Raises:
        RequestError: rows that cannot be used, or that hold nothing to judge; a reward or a model that cannot be read.
        NumericsError: a reward that is no finite number.
    """
    from alignkit.rewards.mixture import reward

    assert recipe.reward is not None
    kind, rows = answered_rows(recipe.data, recipe.evaluation.rows)
    if recipe.answers == "data" and not any(row.judged for row in rows):
        instead = "Give rows with answers, or write answers=own."
        raise RequestError(Fault(where="data", what=f"{CALLED[kind]}: {NOTHING_JUDGED}", instead=instead))
    # The model first: two models never stand in memory together.
    texts = _own_answers(recipe, rows) if recipe.answers != "data" else None
    judge = reward(recipe.reward, allow_code=True, batch=recipe.evaluation.batch)
    weight = recipe.reward.weight
    keep = len(rows) if every_answer else recipe.evaluation.samples
    began = time.monotonic()
    rewards = _rewards(judge, [row.judged for row in rows], weight)
    data = None
    if recipe.answers != "own" and any(row.judged for row in rows):
        data = _of_data(kind, rows, rewards, keep=keep, began=began)
    own = None
    if texts is not None:
        began = time.monotonic()
        given = [
            Judged(
                prompt=row.prompt.prompt,
                answer=text,
                reference=row.prompt.answer,
                columns=row.prompt.columns or {},
                tools=row.prompt.tools,
                where=row.prompt.where,
            )
            for row, text in zip(rows, texts, strict=True)
        ]
        mine = np.array([weight * one for one in judge(given)], np.float64)
        own = _of_own(given, mine, rewards, keep=keep, began=began)
    return Found(data, own)


# --- rows ----------------------------------------------------------------------------------------------------------


def answered_rows(section: Data, rows: int) -> tuple[Kind, list[Answered]]:
    """The kind of a data section's documents and at most ``rows`` of them, those with the smallest content hashes.

    Raises RequestError for a row that cannot be used (unless data.on_error is skip), for sources of several kinds, and
    where there is nothing to judge or to answer.
    """
    generated = bool(section.name) and locate_data(section.name).kind == "generated"
    section = replace(section, split="heldout") if generated else section
    kinds: Counter[Kind] = Counter()
    skipped = 0

    def documents() -> Any:
        nonlocal skipped
        for walk in walks(section):
            for found in walk:
                if found.fault is not None:
                    if section.on_error != "skip":
                        raise RequestError(found.fault)
                    skipped += 1
                    continue
                assert walk.converter is not None
                if walk.converter.raw_text:
                    raise _nothing("raw text")
                for document in found.documents:
                    kinds[walk.converter.kind] += 1
                    yield content_hash(document), kinds.total(), document
            log.say(walk.said)

    chosen = [document for _, _, document in heapq.nsmallest(rows, documents())]
    if skipped:
        log.warn(f"{skipped:,} rows that cannot be used were left out")
    if not chosen:
        raise RequestError(Fault(where="data", what=f"there is no row in {section.name}", instead="Give another."))
    if len(kinds) > 1:
        listed = ", ".join(CALLED[kind] for kind in kinds)
        raise RequestError(
            Fault(
                where="data.sources", what=f"the sources are of several kinds ({listed})", instead="Judge them apart."
            )
        )
    [kind] = kinds
    if kind == "labelled" or (kind != "prompt" and (kind, "prompt") not in CONVERSIONS):
        raise _nothing(CALLED[kind])
    if len(chosen) < kinds.total():
        log.say(f"{len(chosen):,} of {kinds.total():,} rows; evaluation.rows={kinds.total()} judges them all")
    return kind, [_answered(kind, document) for document in chosen]


def _nothing(called: str) -> RequestError:
    return RequestError(Fault(where="data", what=f"{called}: {NOTHING_JUDGED}", instead="Give other data."))


def _answered(kind: Kind, document: Document) -> Answered:
    if isinstance(document, Prompt):
        return Answered(document, document, [])
    [prompt] = CONVERSIONS[kind, "prompt"][0](document, Counter())
    assert isinstance(prompt, Prompt)
    tools = prompt.tools
    return Answered(
        document,
        prompt,
        [
            replace(as_judged(prompt.prompt, answer, document.where, tools), reference=prompt.answer)
            for answer in _answers(document, prompt)
        ],
    )


def _answers(document: Document, prompt: Prompt) -> list[Said]:
    """The answers that a document holds, the best first."""
    if isinstance(document, Preference):
        return [document.chosen, document.rejected]
    if isinstance(document, Ranking):
        return list(document.answers)
    if isinstance(document, Feedback | Scored | Completion):
        return [document.completion]
    assert isinstance(document, Conversation)
    rest = document.messages[len(prompt.prompt) :]
    return [rest] if rest else []


# --- rewards -------------------------------------------------------------------------------------------------------


def _rewards(judge: Reward, rows: Sequence[Sequence[Judged]], weight: float) -> list[Floats]:
    """For each row the rewards of its answers."""
    scores = iter(judge([one for row in rows for one in row]))
    return [np.array([weight * next(scores) for _ in row], np.float64) for row in rows]


def _own_answers(recipe: RewardEvalRecipe, rows: Sequence[Answered]) -> list[str]:
    """The model's most likely answer to each prompt; its memory is given back."""
    from alignkit.console.progress import counting
    from alignkit.evaluation.sampling import sample_answers
    from alignkit.evaluation.templated import templated_tokenizer, with_template
    from alignkit.models.loading import load
    from alignkit.models.locating import locate
    from alignkit.stages.rank.run import release_memory

    source = locate(recipe.model)
    log.say(source.said)
    _, installed = templated_tokenizer(recipe.model, source, recipe.data)
    loaded = load(recipe.model, recipe.quantization, source=source)
    if installed is not None:
        loaded = with_template(loaded, installed)
    with counting("answers", len(rows)) as progress:
        drawn = sample_answers(
            loaded.model,
            loaded.tokenizer,
            [row.prompt.prompt for row in rows],
            max_new_tokens=recipe.evaluation.max_new_tokens,
            temperature=0.0,
            seed=recipe.seed,
            batch=recipe.evaluation.batch,
            tools=[row.prompt.tools for row in rows],
            progress=progress,
        )
    del loaded
    gc.collect()
    release_memory()
    return [one.text for [one] in drawn]


def _of_data(
    kind: Kind, rows: Sequence[Answered], rewards: Sequence[Floats], *, keep: int, began: float
) -> RewardScores:
    """Figures of the answers of the data, by what is known of them."""
    lengths = [np.array([len(one.answer) for one in row.judged], np.float64) for row in rows]
    flat, long = np.concatenate(rewards), np.concatenate(lengths)
    if kind == "preference":
        groups = [row.document.group for row in rows if isinstance(row.document, Preference)]
        pairs, sizes = np.stack(rewards), np.stack(lengths)
        found = reward_figures.of_pairs(pairs[:, 0], pairs[:, 1], sizes[:, 0], sizes[:, 1], groups)
    elif kind == "feedback":
        wanted = np.array([row.document.label for row in rows if isinstance(row.document, Feedback)])
        found = reward_figures.of_labels(flat, wanted, long)
    elif kind == "scored":
        scores = np.array([row.document.score for row in rows if isinstance(row.document, Scored)])
        found = reward_figures.of_scores(flat, scores, long)
    elif kind == "ranking":
        found = _of_rankings(rows, rewards, lengths)
    else:
        found = reward_figures.of_answers(flat, long)
    shown = [_graded(row.judged[0], one[0]) for row, one in list(zip(rows, rewards, strict=True))[:keep] if row.judged]
    return _warned(RewardScores(**{**found, "rows": len(rows)}, answers=shown, seconds=time.monotonic() - began))


def _of_rankings(rows: Sequence[Answered], rewards: Sequence[Floats], lengths: Sequence[Floats]) -> dict[str, Any]:
    """The best against the worst as a pair, and with scores what the best of n is worth."""
    ends = [(one[0], one[-1]) for one in rewards]
    sizes = [(one[0], one[-1]) for one in lengths]
    best, worst = (np.array(side) for side in zip(*ends, strict=True))
    long, short = (np.array(side) for side in zip(*sizes, strict=True))
    found = reward_figures.of_pairs(best, worst, long, short)
    found["rewards"] = {"answers": reward_figures.spread(np.concatenate(rewards))}
    scored = [
        (one, np.asarray(row.document.scores, np.float64))
        for row, one in zip(rows, rewards, strict=True)
        if isinstance(row.document, Ranking) and row.document.scores is not None
    ]
    if scored:
        given, true = [one for one, _ in scored], [scores for _, scores in scored]
        found["best_of"] = reward_figures.best_of(given, true)
        found |= {
            name: value
            for name, value in reward_figures.of_scores(
                np.concatenate(given), np.concatenate(true), np.concatenate(lengths)
            ).items()
            if name in ("correlation", "rank_correlation")
        }
    return found


def _of_own(
    given: Sequence[Judged], mine: Floats, rewards: Sequence[Floats], *, keep: int, began: float
) -> RewardScores:
    """Figures of the model's own answers; against those of the data where it has one to each prompt."""
    found = reward_figures.of_answers(mine, np.array([len(one.answer) for one in given], np.float64))
    if all(len(one) for one in rewards):
        theirs = np.array([one[0] for one in rewards])
        wins = float(((mine > theirs) + (mine == theirs) / 2).sum())
        found |= {"win_rate": wins / len(mine), "win_rate_interval": wilson(wins, len(mine))}
    shown = [_graded(one, reward) for one, reward in list(zip(given, mine, strict=True))[:keep]]
    return _warned(RewardScores(**found, answers=shown, seconds=time.monotonic() - began))


def _graded(judged: Judged, reward: float) -> Graded:
    prompt = judged.prompt if isinstance(judged.prompt, str) else as_text(judged.prompt[-1:])
    return Graded(
        prompt=prompt,
        reference=None,
        answer=f"[{reward:+.3f}] {judged.answer}",
        correct=None,
        finished=True,
        where=judged.where,
    )


def _warned(scores: RewardScores) -> RewardScores:
    return replace(scores, warnings=reward_figures.warnings(scores))
