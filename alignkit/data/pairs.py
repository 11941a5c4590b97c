"""Pairs and feedback go in, prompts with their answers as tokens come out: what a stage trains on and scores.

Which rows go where is decided in `splitting`, exactly as for demonstrations, but that rows with the same prompt go to
the same side: an answer that is held out is one to a prompt that was not trained on.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.config.sections import Data
from alignkit.data.branches import Branched
from alignkit.data.comparisons import Comparisons, Wanted
from alignkit.data.encoding.documents import DocumentEncoder
from alignkit.data.encoding.sides import answered
from alignkit.data.fingerprint import plain_digest
from alignkit.data.formats.agreement import LEVEL, REVERSED
from alignkit.data.formats.checkable import checkable
from alignkit.data.mismatched import Mismatched, elsewhere
from alignkit.data.pool import Digest, Numbers, Pool
from alignkit.data.report import Report
from alignkit.data.rows import Completion, Conversation, Feedback, HeldOut, Preference, Said, Scored
from alignkit.data.rules import OddScores, Rules, Truncation
from alignkit.data.splitting import every_row, nothing_left, read_pool, report_losses, report_of, split
from alignkit.data.store.ingest import Ingested
from alignkit.errors import Fault, RequestError

__all__ = ["Comparisons", "Mismatched", "PreparedPairs", "Wanted", "prepare_held_out_pairs", "prepare_pairs"]


@dataclass(frozen=True)
class PreparedPairs:
    """Rows to train on in the order of their sources, rows to score in the order of their prompts' hashes, the counts,
    and the sources of which rows were skipped (data.on_error=skip).

    ``prompts``: the held-out rows once more, one for one: what was asked, to generate from, with the reference answer
    (none where it was not wanted), and the tokens and labels of the first answer, for a loss.
    """

    train: Comparisons
    held_out: list[Branched]
    prompts: list[HeldOut]
    report: Report
    skipped: tuple[Ingested, ...] = ()

    @property
    def lengths(self) -> NDArray[np.int32]:
        """(R,) tokens of each training row, the trunk counted once."""
        return self.train.lengths

    def mismatched(self, seed: int, max_length: int) -> Mismatched:
        """Of feedback: every training prompt with an answer to another. Raises RequestError where there is one row."""
        return Mismatched(self.train, elsewhere(self.train.prompts, seed), max_length)


def prepare_pairs(
    section: Data,
    tokenizer: Any,
    *,
    wants: Wanted,
    digest_file: Digest = plain_digest,
    held_out_rows: int | None = None,
    truncation: Truncation = "prompt",
    odd_scores: OddScores = "keep",
) -> PreparedPairs:
    """Read, convert, split, render and tokenise a data section of pairs or feedback.

    Args:
        section: the recipe's `data`.
        tokenizer: a transformers tokenizer; conversations need its chat template.
        wants: pairs, single answers that were wanted or not (which pairs can be taken apart into), or single answers
            with a number (pairs and rankings with scores can).
        digest_file: gives the SHA-256 of a file; a stage has one with a memory.
        held_out_rows: make at most this many of the held-out rows ready (the others stay out of training all the same).
        truncation: with data.overlength=truncate, what a comparison over the length loses (see `Rules`).
        odd_scores: what becomes of pairs that their own scores contradict (see `Rules`).

    Raises:
        RequestError: a row that cannot be used, too many rows over the length, nothing left to train on, or of
            feedback only one of the two sorts.
    """
    rules = Rules(truncation=truncation, odd_scores=odd_scores)
    pool = read_pool(section, tokenizer, wants=wants, digest_file=digest_file, rules=rules)
    report = report_of(pool)
    found = split(section, tokenizer, pool, report, wants=wants, digest_file=digest_file, rules=rules)
    train = Comparisons.of(pool, found.epoch, wants)
    aside = found.aside[found.apart.left(found.aside)][:held_out_rows]
    held_out = list(Comparisons.of(found.apart, aside, wants))
    prompts = _prompts(found.apart, aside, section, tokenizer, rules)
    lost = report_losses(report, section, pool)
    if any({LEVEL, REVERSED} & one.tally.notes.keys() for one in pool.read):
        report.notes.append("dpo.odd_scores=drop leaves such pairs out")
    if found.apart is pool:
        report.dropped -= report.held_out_dropped  # they were read with the others
    if not len(train):
        raise nothing_left(section, pool, report, "train on", lost)
    report.kept, report.ready = len(train), len(held_out)
    report.tokens, report.trained_tokens = int(train.lengths.sum(dtype=np.int64)), train.scored
    report.longest = int(train.lengths.max())
    report.noun = "pair" if wants == "preference" else "answer"
    if wants == "feedback":
        report.wanted = _wanted(train)
    return PreparedPairs(train, held_out, prompts, report, found.skipped)


def prepare_held_out_pairs(
    section: Data,
    tokenizer: Any,
    *,
    wants: Wanted,
    digest_file: Digest = plain_digest,
    limit: int | None = None,
    truncation: Truncation = "prompt",
    odd_scores: OddScores = "keep",
) -> PreparedPairs:
    """Every row of a data section as a held-out row, for an evaluation without training; `train` is empty.

    ``limit``: at most this many, those with the smallest hashes. Raises RequestError as `prepare_pairs` does, but too
    many rows over the length are only counted.
    """
    rules = Rules(truncation=truncation, odd_scores=odd_scores)
    pool, report, chosen = every_row(section, tokenizer, wants=wants, digest_file=digest_file, rules=rules)
    lost = report_losses(report, section, pool)
    report.held_out_dropped, report.dropped = lost, Counter()
    aside = chosen[pool.left(chosen)][:limit]
    held_out = list(Comparisons.of(pool, aside, wants))
    report.ready = len(held_out)
    if not held_out:
        raise nothing_left(section, pool, report, "evaluate on", lost)
    prompts = _prompts(pool, aside, section, tokenizer, rules)
    return PreparedPairs(Comparisons.of(pool, chosen[:0], wants), held_out, prompts, report, pool.skipped)


def _wanted(train: Comparisons) -> int:
    """How many answers were wanted. Raises RequestError where all were, or none."""
    wanted, count = int(train.desirable.sum()), len(train)
    if 0 < wanted < count:
        return wanted
    which, other = ("wanted", "not wanted") if wanted else ("not wanted", "wanted")
    raise RequestError(
        Fault(
            where="data",
            what=f"all {count:,} answers to train on are {which}, and the loss sets these against others",
            instead=f"Add rows whose answers were {other}"
            + (", or imitate these: recipe=sft or recipe=lora." if wanted else "."),
        )
    )


def _prompts(pool: Pool, documents: Numbers, section: Data, tokenizer: Any, rules: Rules) -> list[HeldOut]:
    """Held-out documents as something to answer; each first answer's tokens come along."""
    shortened = section.overlength == "truncate" and rules.truncation == "prompt"
    encoder = DocumentEncoder(section, tokenizer, rules=rules) if shortened else None
    rows = []
    for number in documents:
        store, own = pool.place(int(number))
        document = store.document(own)
        assert isinstance(document, Preference | Feedback | Scored)
        row = store[store.rows_of(own)[0]]
        if isinstance(document, Preference):
            answer, right, tools = document.chosen, True, document.tools
        else:
            right = isinstance(document, Feedback) and document.label
            answer, tools = document.completion, None
        reference, certain = checkable(answered(document.prompt, answer, document.where)) if right else (None, False)
        rows.append(
            HeldOut(
                row.input_ids,
                row.labels,
                row.where,
                row.weights,
                prompt=document.prompt if encoder is None else _as_read(encoder, document, answer),
                tools=tools,
                reference=reference,
                checkable=certain,
            )
        )
    return rows


def _as_read(encoder: DocumentEncoder, document: Preference | Feedback | Scored, answer: Said) -> Said:
    """The prompt of a document that may have been shortened, as the model reads it."""
    [done] = encoder.encode([document])
    assert not isinstance(done, Fault)  # it is in the store
    read = done.rows[0][2].document
    if isinstance(read, Completion):
        return read.prompt
    assert isinstance(read, Conversation)
    return read.messages[: len(read.messages) - (1 if isinstance(answer, str) else len(answer))]
