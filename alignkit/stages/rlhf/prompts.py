"""Which prompts a rollout asks: pass after pass over the data, every pass in an order of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.config.sections import Data
from alignkit.data.branches import Branch, Branched
from alignkit.data.prompts import Prompts
from alignkit.data.report import Report
from alignkit.data.rows import UNTRAINED, Encoded
from alignkit.data.splitting import nothing_left, read_pool, report_losses, report_of, split
from alignkit.data.store.ingest import Ingested
from alignkit.errors import Fault, RequestError
from alignkit.rewards.fitting import prompt_faults
from alignkit.runs.digests import file_digest
from alignkit.stages.rlhf.recipe import RlhfOptions


@dataclass(frozen=True)
class PreparedPolicy:
    """What a policy is trained on and evaluated on."""

    train: Prompts
    held_out: Prompts
    """Prompts that are never asked in training."""
    report: Report
    skipped: tuple[Ingested, ...]

    @property
    def lengths(self) -> NDArray[np.int32]:
        """(P,) tokens of each prompt to train on."""
        return self.train.lengths


def prepare(section: Data, tokenizer: Any, *, held_out_rows: int | None, room: int | None = None) -> PreparedPolicy:
    """The prompts of a data section, split. ``room``: tokens of a prompt that leave room for an answer in the model's
    context; None: any. Raises RequestError for a row that cannot be used, for too many prompts over data.max_length,
    for one without a token, and where none is left."""
    try:
        pool = read_pool(section, tokenizer, wants="prompt", digest_file=file_digest)
    except RequestError as error:
        raise RequestError([_within(one, section, room) for one in error.faults]) from error
    report = report_of(pool)
    found = split(section, tokenizer, pool, report, wants="prompt", digest_file=file_digest)
    lost = report_losses(report, section, pool)
    if not len(found.epoch):
        raise nothing_left(section, pool, report, "ask", lost)
    aside = found.aside[found.apart.left(found.aside)][:held_out_rows]
    prepared = PreparedPolicy(Prompts(pool, found.epoch), Prompts(found.apart, aside), report, found.skipped)
    for prompts in (prepared.train, prepared.held_out):
        if len(prompts) and not int(prompts.lengths.min()):
            empty = prompts[int(prompts.lengths.argmin())]
            what = "the prompt holds no token, so there is nothing to go on from"
            raise RequestError(Fault(where=empty.where, what=what, instead="Leave the row out."))
    report.kept, report.ready, report.noun = len(prepared.train), len(prepared.held_out), "prompt"
    report.longest = int(prepared.lengths.max())
    return prepared


def _within(fault: Fault, section: Data, room: int | None) -> Fault:
    """What to do about prompts that are too long, where the model's context is what bounds them."""
    if fault.where != "data.max_length" or room is None or section.max_length < room:
        return fault
    cut = "" if section.overlength == "truncate" else "data.overlength=truncate, which leaves out the earliest turns; "
    return replace(
        fault,
        instead="No more leave room for an answer in the model's context. Write a smaller rlhf.max_new_tokens; "
        f"{cut}or raise data.overlength_limit, and they are left out.",
    )


def as_texts(prompts: Prompts, count: int) -> Sequence[Encoded]:
    """The first prompts as texts to be predicted: what a merge's drift and data-driven initialisations look at."""
    rows = (prompts[number] for number in range(min(count, len(prompts))))
    return [Encoded(one.ids, [UNTRAINED, *one.ids[1:]], one.where) for one in rows]


def require_fitting(options: RlhfOptions, prepared: PreparedPolicy) -> None:
    """What can be known of prompts and rewards before a model is read. Raises RequestError where a rollout asks more
    prompts than there are, and where a reward could not judge an answer to one of them."""
    faults, known = [], len(prepared.train)
    if options.prompts > known:
        faults.append(
            Fault(
                where="rlhf.prompts",
                what=f"a rollout asks {options.prompts} different prompts, and there are {known:,}",
                instead=f"Write rlhf.prompts={known} or less, and a batch.size that divides its answers.",
            )
        )
    faults += prompt_faults(options.rewards, prepared.train, "rlhf.rewards")
    if len(prepared.held_out):
        faults += prompt_faults(options.true_reward, prepared.held_out, "rlhf.true_reward")
    if faults:
        raise RequestError(faults)


def stand_ins(prompts: Prompts) -> list[Branched]:
    """Two rows with two answers each, for checks that look at rows before answers are known: pieces of prompts."""
    asked = [prompts[number].ids for number in range(min(2, len(prompts)))]
    pieces = (asked[0], asked[-1][::-1])
    branches = tuple(Branch(ids, [True] * len(ids)) for ids in pieces)
    return [Branched(ids, branches, "a prompt") for ids in asked]


class PromptStream:
    """Numbers of prompts without end. A rollout never has the same prompt twice: one that comes again while the next
    pass begins waits for the rollout after."""

    def __init__(self, prompts: int, seed: int) -> None:
        self.prompts, self.seed = prompts, seed
        self.place = 0
        """How many were taken from the passes so far."""
        self.waiting: list[int] = []
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def take(self, count: int, without: Sequence[int] = ()) -> list[int]:
        """The next ``count`` numbers, none of them twice or in ``without``; fewer where there are no others."""
        taken: list[int] = []
        barred = set(without)
        later: list[int] = []
        while len(taken) < count and len(barred) < self.prompts:
            number = self.waiting.pop(0) if self.waiting else self._next()
            if number in barred:
                later.append(number)
            else:
                taken.append(number)
                barred.add(number)
        self.waiting = later + self.waiting
        return taken

    def _next(self) -> int:
        turn, at = divmod(self.place, self.prompts)
        if self._order is None or self._order[0] != turn:
            chances = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, turn])))
            self._order = turn, chances.permutation(self.prompts)
        self.place += 1
        return int(self._order[1][at])

    def state_dict(self) -> dict[str, Any]:
        """Where it stands: plain JSON values."""
        return {"place": self.place, "waiting": list(self.waiting)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.place, self.waiting = int(state["place"]), [int(number) for number in state["waiting"]]
