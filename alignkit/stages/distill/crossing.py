"""A teacher with another tokenizer: it reads each row in its own tokens and template, and is asked where they meet.

Letters: B rows, T tokens of the student's batch, N its labelled positions, P compared positions, S spans.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignkit.data.batching import Collator, pad
from alignkit.data.rows import UNTRAINED, Encoded
from alignkit.errors import Fault, RequestError
from alignkit.evaluation.sampling import pad_id
from alignkit.stages.distill.losses.spans import align
from alignkit.stages.distill.losses.vocabularies import END, matched_tokens, token_bytes
from alignkit.teachers.live import LiveTeacher
from alignkit.teachers.teacher import RowTokens, rows_of
from alignkit.training.targets import HeadTargets, MatchedTargets
from alignkit.training.token_scores import token_scores

PLACES = "places"
"""Key of a batch: where each of its rows stands in its source, which names the teacher's row."""


@dataclass
class Crossed:
    """What the teacher says of a batch where both vocabularies meet."""

    positions: Tensor
    """(P,) of the B·T flattened positions of the student, each predicting a compared token."""
    labels: Tensor
    """(P,) that token."""
    targets: HeadTargets | MatchedTargets
    """Of the P positions."""
    spans: Tensor
    """(K,) which span each of the tokens below belongs to."""
    span_tokens: Tensor
    """(K,) places among the N labelled positions of the student's tokens in spans of several tokens."""
    span_log_probs: Tensor
    """(S,) what the teacher says of each such span's text, in nats."""


@dataclass
class _Meeting:
    """Places that are compared, over the rows of a batch."""

    student: list[int] = field(default_factory=list)  # flattened position of the token itself
    labels: list[int] = field(default_factory=list)
    teacher: list[int] = field(default_factory=list)  # among the teacher's labelled positions
    spans: list[tuple[list[int], list[int]]] = field(default_factory=list)  # places among labelled ones, both sides


class Crossing:
    """Reads a student's batch with a teacher of another vocabulary."""

    def __init__(
        self,
        teacher: LiveTeacher,
        kind: str,
        student_tokenizer: Any,
        rows: Sequence[Encoded],
        *,
        ends: tuple[Collection[int], Collection[int]],
    ) -> None:
        """
        Args:
            kind: ``uld`` or ``spans``.
            rows: the training rows in the teacher's tokens; found by where they stand.
            ends: tokens that end an answer, the student's and the teacher's.
        """
        self.teacher, self.kind, self.rows = teacher, kind, rows
        self.student_tokenizer = student_tokenizer
        self.student_bytes = token_bytes(student_tokenizer, ends=ends[0])
        self.teacher_bytes = token_bytes(teacher.tokenizer, ends=ends[1])
        self.end = min(ends[1])
        self.matched = matched_tokens(self.student_bytes, self.teacher_bytes)
        self.index = {row.where: number for number, row in enumerate(rows)}
        self.collate: Collator = pad(pad_id(teacher.tokenizer))

    def require(self, rows: Sequence[Encoded]) -> None:
        """Raises RequestError where the teacher cannot read a row of the student's."""
        missing = [row.where for row in rows if row.where not in self.index]
        if missing:
            raise RequestError(
                Fault(
                    where="data",
                    what=f"{len(missing):,} rows do not fit the teacher, or are other rows to it (the first: "
                    f"{missing[0]})",
                    instead="Write a smaller data.max_length, or leave such rows out.",
                )
            )

    def read(self, batch: Mapping[str, Any]) -> Crossed:
        """Ask the teacher where it and the student have read the same text."""
        rows = rows_of(batch)
        width = batch["input_ids"].shape[1]
        lengths = batch.get("document_lengths")
        starts = np.cumsum([0, *lengths]) if lengths is not None else np.arange(len(rows)) * width
        found, theirs = _Meeting(), []
        counted = [0, 0]  # labelled positions so far, the student's and the teacher's
        for place, row, start in zip(batch[PLACES], rows, starts, strict=False):
            other = self._teacher_row(place, row)
            theirs.append(other)
            self._meet(row, int(start), other, counted, found)
            counted[0] += int(row.labelled.sum())
            counted[1] += other.trained
        said = self.teacher.targets(self.collate(theirs))
        labels = torch.tensor([t for one in theirs for t in one.labels if t != UNTRAINED], device=said.hidden.device)
        chosen = said.take(torch.tensor(found.teacher, dtype=torch.long, device=said.hidden.device))
        targets: HeadTargets | MatchedTargets = chosen
        if self.kind == "spans":
            ours, their_ids = self.matched
            device = said.hidden.device
            targets = MatchedTargets(chosen, their_ids.to(device), ours.to(device))
        device = batch["input_ids"].device
        return Crossed(
            positions=torch.tensor(found.student, dtype=torch.long, device=device) - 1,
            labels=torch.tensor(found.labels, dtype=torch.long, device=device),
            targets=targets,
            spans=torch.tensor([n for n, (own, _) in enumerate(found.spans) for _ in own], dtype=torch.long).to(device),
            span_tokens=torch.tensor([t for own, _ in found.spans for t in own], dtype=torch.long).to(device),
            span_log_probs=_span_log_probs(said, labels, [other for _, other in found.spans]).to(device),
        )

    def _meet(self, row: RowTokens, start: int, other: Encoded, counted: list[int], found: _Meeting) -> None:
        """The places of one row; ``start``: its first token among the flattened ones."""
        ours, theirs = list(counted), _runs(np.asarray(other.labels) != UNTRAINED)
        for (a, b), (c, d) in zip(_runs(row.labelled), theirs, strict=False):
            pairs: list[tuple[int, int]]
            if self.kind == "uld":
                pairs = [(at, at) for at in range(min(b - a, d - c))]
            else:
                spans = align(_read(self.student_bytes, row.ids[a:b]), _read(self.teacher_bytes, other.input_ids[c:d]))
                pairs = [(span.student[0], span.teacher[0]) for span in spans]
                for span in spans:
                    if not span.single:
                        own = [ours[0] + at for at in range(*span.student)]
                        found.spans.append((own, [ours[1] + at for at in range(*span.teacher)]))
            for own_at, other_at in pairs:
                found.student.append(start + a + own_at)
                found.labels.append(int(row.ids[a + own_at]))
                found.teacher.append(ours[1] + other_at)
            ours[0] += b - a
            ours[1] += d - c

    def _teacher_row(self, place: str, row: RowTokens) -> Encoded:
        """The row in the teacher's tokens; an answer that the student wrote is tokenised anew."""
        other = self.rows[self.index[place]]
        mine, theirs = _runs(row.labelled), _runs(np.asarray(other.labels) != UNTRAINED)
        if not mine or not theirs:
            return other
        (a, b), (c, d) = mine[-1], theirs[-1]
        said = b"".join(_read(self.student_bytes, row.ids[a:b]))
        if said.strip() == b"".join(_read(self.teacher_bytes, other.input_ids[c:d])).strip():
            return other
        ended = said.endswith(END)
        ids = row.ids[a : b - 1 if ended else b].tolist()
        text = self.student_tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        answer = list(self.teacher.tokenizer(text, add_special_tokens=False)["input_ids"])
        answer += [self.end] if ended else []
        if not answer:
            return other
        return Encoded(list(other.input_ids[:c]) + answer, [*other.labels[:c], *answer], other.where)


def remember_places(collate: Collator) -> Collator:
    """A collator that keeps where a batch's rows stand."""

    def collated(features: Sequence[Any]) -> dict[str, Any]:
        batch = collate(features)
        return {**batch, PLACES: list(batch["rows"])}

    return collated


def _span_log_probs(said: HeadTargets, labels: Tensor, spans: Sequence[Sequence[int]]) -> Tensor:
    """(S,) sums of the teacher's log-probabilities over the tokens of each span, in nats."""
    flat = torch.tensor([token for span in spans for token in span], dtype=torch.long, device=labels.device)
    owner = torch.tensor([n for n, span in enumerate(spans) for _ in span], dtype=torch.long, device=labels.device)
    if not len(flat):
        return torch.zeros(len(spans), device=labels.device)
    with torch.no_grad():
        found = token_scores(said.hidden[flat], said.weight, said.bias, labels[flat], said.rule)["log_probs"]
    assert found is not None
    return torch.zeros(len(spans), device=labels.device).index_add(0, owner, found.float())


def _read(table: Mapping[int, bytes], ids: Sequence[int] | NDArray[np.int64]) -> list[bytes]:
    return [table.get(int(token), b"") for token in ids]


def _runs(labelled: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """[first, end) of each run of labelled tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], labelled, [False]]).astype(np.int8)))
    return list(zip(edges[0::2].tolist(), edges[1::2].tolist(), strict=True))
