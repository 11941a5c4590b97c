"""Prompts with several answers become batches: the prompt once, once for each answer, or padded.

All three layouts carry the same keys for scoring, so whoever computes a loss need not know which one it is:

    score_from (N,) int64       the position, of the (B·T) flattened ones, whose hidden state predicts a scored token
    score_labels (N,) int64     that token
    score_answer (N,) int64     the answer it belongs to, ascending: answers are numbered row by row, branch by branch
    answers: int                A, how many answers there are
    answer_tokens (A,) int64    scored tokens of each
    rows: list[str]             where each row stands in its source
    row_numbers: list[int]      which row of the data set each is
    desirable (R,) bool         of feedback: whether a row's answer was wanted
    scores (R,) float32         of scored answers: what each is worth
    margins (R,) float32        of pairs with scores, where all of the batch have one

Letters: R rows of the batch, A answers, N scored tokens; B and T as the layout says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from alignkit.data.branches import Branch, Branched

Feature: TypeAlias = "Branched | tuple[int, Branched]"
"""A row, or its number in the data set and the row. A row without a number gets that of its place in the batch."""

Collator: TypeAlias = Callable[[Sequence[Feature]], dict[str, Any]]


def shared() -> Collator:
    """A collator that lays trunk, branch 1, branch 2 … of every row end to end: B = 1, T all tokens, each once.

    It gives ``input_ids``, ``position_ids`` (1, T): every branch goes on where its trunk ended; ``branch_lengths``: a
    tuple a row, (trunk, branch 1, …), for models whose attention takes it.
    """

    def collate(features: Sequence[Feature]) -> dict[str, Any]:
        rows, lay = _rows(features), _Lay()
        for row in rows:
            trunk = lay.put(row.trunk, first=0)
            for branch in row.branches:
                start = lay.put(branch.ids, first=len(row.trunk))
                lay.score(branch, start=start, before=trunk + len(row.trunk) - 1)
        lengths = [(len(row.trunk), *(len(branch.ids) for branch in row.branches)) for row in rows]
        return {**lay.end_to_end(), "branch_lengths": lengths, **lay.scoring(), **_about(features)}

    return collate


def apart() -> Collator:
    """A collator that lays every trunk + branch end to end as a document of its own: B = 1, T tokens, trunks repeated.

    It gives ``input_ids``, ``position_ids`` (1, T), restarting at 0, and ``document_lengths``: list[int], summing to T.
    """

    def collate(features: Sequence[Feature]) -> dict[str, Any]:
        lay, lengths = _Lay(), []
        for row in _rows(features):
            for branch in row.branches:
                trunk = lay.put(row.trunk, first=0)
                start = lay.put(branch.ids, first=len(row.trunk))
                lay.score(branch, start=start, before=trunk + len(row.trunk) - 1)
                lengths.append(len(row.trunk) + len(branch.ids))
        return {**lay.end_to_end(), "document_lengths": lengths, **lay.scoring(), **_about(features)}

    return collate


def padded(pad_id: int) -> Collator:
    """A collator that pads every trunk + branch on the right to the longest: B = A, T tokens of the longest.

    It gives ``input_ids`` and ``attention_mask`` (B, T).
    """

    def collate(features: Sequence[Feature]) -> dict[str, Any]:
        rows, lay = _rows(features), _Lay()
        pairs = [(row.trunk, branch) for row in rows for branch in row.branches]
        width = max(len(trunk) + len(branch.ids) for trunk, branch in pairs)
        lengths = np.array([len(trunk) + len(branch.ids) for trunk, branch in pairs])
        for trunk, branch in pairs:
            begin = lay.put(trunk, first=0)
            start = lay.put(branch.ids, first=len(trunk))
            lay.score(branch, start=start, before=begin + len(trunk) - 1)
            lay.put([pad_id] * (begin + width - lay.total), first=0)
        mask = np.arange(width) < lengths[:, None]  # (B, T)
        return {
            "input_ids": lay.end_to_end()["input_ids"].view(len(pairs), width),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
            **lay.scoring(),
            **_about(features),
        }

    return collate


def of_layout(layout: str, pad_id: int) -> Collator:
    """The collator of a layout by its name: shared, apart or padded."""
    if layout == "padded":
        return padded(pad_id)
    return shared() if layout == "shared" else apart()


@dataclass
class _Lay:
    """Tokens laid one after the other, and what of them is scored."""

    total: int = 0
    _ids: list[NDArray[np.int64]] = field(default_factory=list)
    _places: list[NDArray[np.int64]] = field(default_factory=list)
    _from: list[NDArray[np.int64]] = field(default_factory=list)
    _labels: list[NDArray[np.int64]] = field(default_factory=list)

    def put(self, ids: Sequence[int], *, first: int) -> int:
        """Lay tokens whose positions count from ``first``; returns where they begin."""
        begin = self.total
        self._ids.append(np.asarray(ids, dtype=np.int64))
        self._places.append(np.arange(first, first + len(ids)))
        self.total += len(ids)
        return begin

    def score(self, branch: Branch, *, start: int, before: int) -> None:
        """Score the answer in a branch that begins at ``start`` and whose first token position ``before`` predicts."""
        at = np.flatnonzero(branch.scored)
        self._from.append(np.where(at == 0, before, start + at - 1))
        self._labels.append(np.asarray(branch.ids, dtype=np.int64)[at])

    def end_to_end(self) -> dict[str, torch.Tensor]:
        """``input_ids`` and ``position_ids``, (1, T)."""
        return {
            "input_ids": torch.from_numpy(np.concatenate(self._ids)).unsqueeze(0),
            "position_ids": torch.from_numpy(np.concatenate(self._places)).unsqueeze(0),
        }

    def scoring(self) -> dict[str, Any]:
        """The keys that say what is scored."""
        tokens = np.array([len(labels) for labels in self._labels], dtype=np.int64)
        return {
            "score_from": torch.from_numpy(np.concatenate(self._from)),
            "score_labels": torch.from_numpy(np.concatenate(self._labels)),
            "score_answer": torch.from_numpy(np.repeat(np.arange(len(tokens)), tokens)),
            "answers": len(tokens),
            "answer_tokens": torch.from_numpy(tokens),
        }


def _rows(features: Sequence[Feature]) -> list[Branched]:
    return [feature if isinstance(feature, Branched) else feature[1] for feature in features]


def _numbers(features: Sequence[Feature]) -> Iterator[int]:
    for place, feature in enumerate(features):
        yield place if isinstance(feature, Branched) else int(feature[0])


def _about(features: Sequence[Feature]) -> dict[str, Any]:
    """What is known of the rows beside their tokens."""
    rows = _rows(features)
    about: dict[str, Any] = {"rows": [row.where for row in rows], "row_numbers": list(_numbers(features))}
    wanted = [row.desirable for row in rows if row.desirable is not None]
    if len(wanted) == len(rows):
        about["desirable"] = torch.tensor(wanted, dtype=torch.bool)
    scores = [row.score for row in rows if row.score is not None]
    if len(scores) == len(rows):
        about["scores"] = torch.tensor(scores, dtype=torch.float32)
    margins = [row.margin for row in rows if row.margin is not None]
    if len(margins) == len(rows):
        about["margins"] = torch.tensor(margins, dtype=torch.float32)
    return about
