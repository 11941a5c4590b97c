"""What a teacher is to a stage: something that gives the targets of a batch; and the rows that stand in a batch.

Letters: B rows of a batch, T tokens, N labelled positions, row by row, t tokens of one row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from alignkit.data.batching import Collator, Feature
from alignkit.data.rows import UNTRAINED
from alignkit.training.targets import Targets


class Teacher(Protocol):
    """A live model, several, a cache on disk, or a server."""

    @property
    def vocabulary(self) -> int:
        """How many tokens the targets' ids may name: 0 to vocabulary - 1."""

    def targets(self, batch: Mapping[str, Any]) -> Targets:
        """What the teacher says at the N labelled positions of a batch (``data.batching.flatten`` or ``pad``), row by
        row, in the order in which ``labels[:, 1:] != -100`` stands."""


class RowTokens(NamedTuple):
    """A row of a batch: ids (t,) int64, and (t,) bool where a token carries loss; the first never does."""

    ids: NDArray[np.int64]
    labelled: NDArray[np.bool_]


def row_tokens(ids: Sequence[int] | NDArray[Any], labels: Sequence[int] | NDArray[Any]) -> RowTokens:
    """A row's ids (t,) and labels (t,) as arrays."""
    labelled = np.asarray(labels) != UNTRAINED
    labelled[:1] = False
    return RowTokens(np.asarray(ids, dtype=np.int64), labelled)


def rows_of(batch: Mapping[str, Any]) -> list[RowTokens]:
    """The rows that were collated into a batch, in their order, without padding."""
    ids, labels = batch["input_ids"].cpu().numpy(), batch["labels"].cpu().numpy()  # (B, T)
    lengths = batch.get("document_lengths")
    if lengths is not None:
        ends = np.cumsum(lengths)
        starts = ends - np.asarray(lengths)
        return [row_tokens(ids[0, a:b], labels[0, a:b]) for a, b in zip(starts, ends, strict=True)]
    mask = batch.get("attention_mask")
    kept = np.ones_like(ids, dtype=bool) if mask is None else mask.cpu().numpy().astype(bool)
    return [row_tokens(own[keep], label[keep]) for own, label, keep in zip(ids, labels, kept, strict=True)]


def with_targets(collate: Collator, teacher: Teacher) -> Collator:
    """A collator that puts the teacher's targets beside a batch's tensors, under `targets`: what a teacher that needs
    no model can do while the data loader works ahead."""

    def collated(features: Sequence[Feature]) -> dict[str, Any]:
        batch = collate(features)
        batch["targets"] = teacher.targets(batch)
        return batch

    return collated
