"""Distilling step by step: each row becomes two tasks, its label and the reasons for it (Hsieh et al. 2023).

The two rows of a task pair travel together, so every step holds as many labels as rationales, and its loss is
alpha · mean over the label tokens + (1 - alpha) · mean over the rationale tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignkit.config.sections import Data
from alignkit.data.batching import Collator
from alignkit.data.encoding.tokenizing import prompt_ids
from alignkit.data.pool import Digest
from alignkit.data.prepare import Prepared, prepare
from alignkit.data.rows import UNTRAINED, Document, Encoded, HeldOut, Prompt
from alignkit.data.splitting import read_pool
from alignkit.data.store.rowstore import View
from alignkit.errors import Fault, RequestError
from alignkit.stages.distill.recipe import Steps
from alignkit.stages.distill.rollouts import answer_start
from alignkit.stages.distill.texts import Question, answered, keep, prefixed, section_of

FILE = "steps.jsonl"
"""In the run: the label and the rationale of each row in turn."""


class Pairs(Sequence[Any]):
    """Item i is a label row and the rationale row that belongs to it."""

    def __init__(self, rows: View) -> None:
        """``rows``: of a file in which labels and rationales take turns; of a pair that lost one, neither is used."""
        documents = rows.gather("documents").astype(np.int64)
        first = np.flatnonzero((documents[:-1] % 2 == 0) & (documents[1:] == documents[:-1] + 1))
        self.rows, self.first = rows, first

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        at = int(self.first[index])
        return [self.rows[at], self.rows[at + 1]]

    def __iter__(self) -> Iterator[list[Encoded]]:
        return (self[index] for index in range(len(self)))

    @property
    def lengths(self) -> NDArray[np.int32]:
        """(P,) tokens of both rows of each pair."""
        lengths = self.rows.lengths
        return np.asarray(lengths[self.first] + lengths[self.first + 1], np.int32)


@dataclass(frozen=True)
class PreparedSteps:
    """As `data.prepare.Prepared`, of pairs."""

    train: Sequence[Any]
    held_out: list[HeldOut]
    report: Any
    skipped: tuple[Any, ...]
    lengths: NDArray[np.int32]


def rationales(data: Data, tokenizer: Any, column: str, *, digest_file: Digest) -> dict[str, str]:
    """The column with the reasons, of the rows that have one: place of the row to text."""
    pool = read_pool(data, tokenizer, wants="prompt", digest_file=digest_file)
    found: dict[str, str] = {}
    for number in range(len(pool.hashes)):
        document = pool.document(number)
        assert isinstance(document, Prompt)
        text = (document.columns or {}).get(column)
        if isinstance(text, str) and text.strip():
            found[document.where] = text
    return found


def given_rationales(asked: Sequence[Question], known: Mapping[str, str], column: str) -> list[str] | None:
    """Each row's own rationale; None where no row has one. Raises RequestError where some have and some have not."""
    missing = next((one.where for one in asked if one.where not in known), None)
    if missing is None:
        return [known[one.where] for one in asked]
    if not any(one.where in known for one in asked):
        return None
    raise RequestError(
        Fault(
            where=missing,
            what=f"has no `{column}`, and other rows have one",
            instead="Give every row one, or name another column (distill.steps.rationale) to have the teacher write "
            "them all.",
        )
    )


def write_pairs(asked: Sequence[Question], reasons: Sequence[str], steps: Steps, path: Path) -> None:
    """The two tasks of each row into a file that stands in the run."""

    def tasks() -> Iterator[Document]:
        for question, reason in zip(asked, reasons, strict=True):
            label = replace(question, prompt=prefixed(question.prompt, steps.label_prefix))
            why = replace(question, prompt=prefixed(question.prompt, steps.rationale_prefix), known=None)
            yield answered(label, question.answer)
            yield answered(why, reason)

    keep(tasks(), isinstance(asked[0].prompt, str), path)


def prepared_pairs(
    data: Data, tokenizer: Any, path: Path, before: Prepared, steps: Steps, *, digest_file: Digest
) -> PreparedSteps:
    """The rows of ``path`` as pairs to train on; the held-out rows of ``before`` with the label's prefix."""
    found = prepare(section_of(data, path), tokenizer, digest_file=digest_file)
    assert isinstance(found.train, View)
    pairs = Pairs(found.train)
    if not len(pairs):
        raise RequestError(
            Fault(
                where="data.max_length",
                what=f"no row fits in {data.max_length} tokens together with its rationale",
                instead="Write a larger data.max_length.",
            )
        )
    report = found.report
    report.held_out, report.ready = before.report.held_out, before.report.ready
    report.notes.append(
        f"step by step: {len(pairs):,} labels and as many rationales, each a row of its own; held-out rows ask for the "
        f"label ({steps.label_prefix!r} stands before their prompts)"
    )
    held = [with_prefix(row, tokenizer, steps.label_prefix) for row in before.held_out]
    return PreparedSteps(pairs, held, report, before.skipped, pairs.lengths)


def with_prefix(row: HeldOut, tokenizer: Any, prefix: str) -> HeldOut:
    """A held-out row whose prompt has a text before its last turn."""
    if row.prompt is None:
        return row
    prompt = prefixed(row.prompt, prefix)
    start = answer_start(row.labels)
    asked = prompt_ids(tokenizer, prompt, row.tools)
    return replace(
        row,
        input_ids=[*asked, *row.input_ids[start:]],
        labels=[UNTRAINED] * len(asked) + row.labels[start:],
        weights=None,
        prompt=prompt,
    )


def two_tasks(collate: Collator) -> Collator:
    """A collator of pairs that marks the tokens of rationales, under `rationale`, of the labels' shape."""

    def collated(features: Sequence[Any]) -> dict[str, Any]:
        rows = [row for pair in features for row in pair]
        batch = collate(rows)
        marks = collate([replace(row, weights=[float(n % 2)] * len(row)) for n, row in enumerate(rows)])
        return {**batch, "rationale": marks["loss_weights"] > 0}

    return collated


def balance(batches: Sequence[dict[str, Any]], alpha: float) -> None:
    """Give the tokens of a step's micro-batches weights that sum to alpha over the labels and to 1 - alpha over the
    rationales, under `loss_weights`. In place; `rationale` is taken out."""
    sums = [0.0, 0.0]
    weights: list[Tensor] = []
    for batch in batches:
        labelled = batch["labels"] != UNTRAINED
        labelled[..., 0] = False
        own = batch.get("loss_weights")
        own = labelled.float() if own is None else own.float() * labelled
        weights.append(own)
        for task in (0, 1):
            sums[task] += float(own[batch["rationale"] == bool(task)].sum())
    factors = (alpha / max(sums[0], 1e-30), (1 - alpha) / max(sums[1], 1e-30))
    for batch, own in zip(batches, weights, strict=True):
        chosen = torch.where(batch.pop("rationale"), factors[1], factors[0]).to(own)
        batch["loss_weights"] = own * chosen
