"""Encoded rows become batches: laid end to end, or padded; and the order in which an epoch takes them.

Letters: B rows, T tokens of the batch (padded: the longest row; end to end: the sum).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from alignkit.data.mixing.packing import by_length
from alignkit.data.rows import UNTRAINED, Encoded

Feature: TypeAlias = "Encoded | Mapping[str, Any] | Sequence[Encoded | Mapping[str, Any]]"
"""A row, or the rows of one block. A row is an Encoded, or a mapping with input_ids, labels and, if need be, weights of
its tokens and (for messages to people) where."""

Collator: TypeAlias = Callable[[Sequence[Feature]], dict[str, Any]]


def flatten(*, pad_id: int = 0, pad_to_multiple_of: int | None = None) -> Collator:
    """A collator that lays rows end to end in one sequence, without padding; they never see each other.

    It gives ``input_ids``, ``labels``, ``position_ids`` (1, T), int64; ``document_lengths``: list[int], summing to T;
    ``rows``: where each row stands in its source; and where some row has weights ``loss_weights`` (1, T), float32.
    The rows of a block are documents like all others. The first label of each document is -100, since the causal shift
    would otherwise predict it from the last token of the document before; positions start again at 0.
    With ``pad_to_multiple_of`` the padding is one more document, without labels.
    """

    def collate(features: Sequence[Feature]) -> dict[str, Any]:
        rows = [_Row(row) for row in _unpacked(features)]
        lengths = [len(row.ids) for row in rows]
        width = sum(lengths)
        padding = _round_up(width, pad_to_multiple_of) - width
        if padding:
            lengths.append(padding)
        ids = np.full(width + padding, pad_id, dtype=np.int64)
        labels = np.full(width + padding, UNTRAINED, dtype=np.int64)
        np.concatenate([row.ids for row in rows], out=ids[:width])
        np.concatenate([row.labels for row in rows], out=labels[:width])
        starts = np.cumsum(lengths) - lengths
        batch = {
            "input_ids": torch.from_numpy(ids).unsqueeze(0),  # (1, T)
            "labels": torch.from_numpy(labels).unsqueeze(0),  # (1, T)
            "position_ids": torch.from_numpy(np.arange(len(ids)) - np.repeat(starts, lengths)).unsqueeze(0),  # (1, T)
            "document_lengths": lengths,
            "rows": [row.where for row in rows],
        }
        if any(row.weighted for row in rows):
            weights = np.zeros(len(ids), dtype=np.float32)
            np.concatenate([row.weights for row in rows], out=weights[:width])
            batch["loss_weights"] = torch.from_numpy(weights).unsqueeze(0)  # (1, T)
        return batch

    return collate


def pad(pad_id: int, *, pad_to_multiple_of: int | None = None) -> Collator:
    """A collator that pads rows on the right to the longest.

    It gives ``input_ids``, ``labels``, ``attention_mask`` (B, T), int64; ``rows``: where each row stands in its source;
    and where some row has weights ``loss_weights`` (B, T), float32, 0 on padding. The rows of a block become rows.
    Labels are -100 on padding by position, not by token: a pad token that is also the eos token does not cost the
    row its eos.
    """

    def collate(features: Sequence[Feature]) -> dict[str, Any]:
        rows = [_Row(row) for row in _unpacked(features)]
        shape = len(rows), _round_up(max(len(row.ids) for row in rows), pad_to_multiple_of)
        ids = np.full(shape, pad_id, dtype=np.int64)
        labels = np.full(shape, UNTRAINED, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for number, row in enumerate(rows):
            length = len(row.ids)
            ids[number, :length] = row.ids
            labels[number, :length] = row.labels
            mask[number, :length] = 1
        batch = {
            "input_ids": torch.from_numpy(ids),  # (B, T)
            "labels": torch.from_numpy(labels),  # (B, T)
            "attention_mask": torch.from_numpy(mask),  # (B, T)
            "rows": [row.where for row in rows],
        }
        if any(row.weighted for row in rows):
            weights = np.zeros(shape, dtype=np.float32)
            for number, row in enumerate(rows):
                weights[number, : len(row.ids)] = row.weights
            batch["loss_weights"] = torch.from_numpy(weights)  # (B, T)
        return batch

    return collate


class RowOrder(Sampler[int]):
    """Indices of the rows (or blocks) of an epoch, each once; the order is a function of (seed, epoch) alone, so a
    resumed run finds its place again.

    With ``group_by_length`` the rows of each batch have similar lengths: rows are shuffled, cut into windows, sorted
    by length within each window, and the batches shuffled again, so that lengths do not go from long to short over
    the epoch. The batch with the longest row comes first: what does not fit in memory fails at once and not after an
    hour. A batch that is not full comes last, so that batches here are batches there.

    Memory: 8 bytes a row for the order, 4 for the lengths.
    """

    def __init__(
        self, lengths: Sequence[int] | NDArray[Any], *, seed: int, batch: int, group_by_length: bool = False
    ) -> None:
        self.lengths = np.asarray(lengths, dtype=np.int32)
        self.seed = seed
        self.batch = batch
        self.group_by_length = group_by_length
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The pass whose order comes next; the data loader calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        # A loop over the array would hand out numpy's integers, which some data sets do not take for an index.
        return map(int, self.order())

    def order(self) -> NDArray[np.int64]:
        """The epoch's indices, (n,)."""
        generator = torch.Generator()
        generator.manual_seed(self.seed * 1_000_003 + self.epoch)
        order: NDArray[np.int64] = torch.randperm(len(self), generator=generator).numpy()
        if not self.group_by_length:
            return order
        order = by_length(order, self.lengths, self.batch)
        full = len(order) // self.batch
        batches = order[: full * self.batch].reshape(full, self.batch)
        batches = batches[torch.randperm(full, generator=generator).numpy()]
        if full:
            longest = int(self.lengths[batches[:, 0]].argmax())  # a batch begins with its longest row
            batches[[0, longest]] = batches[[longest, 0]]
        return np.concatenate([batches.ravel(), order[full * self.batch :]])


class _Row:
    """A row as arrays, (t,) each; its first token is nobody's target."""

    __slots__ = ("given", "ids", "labels", "where")

    def __init__(self, row: Encoded | Mapping[str, Any]) -> None:
        if isinstance(row, Encoded):
            ids, labels, self.given, self.where = row.input_ids, row.labels, row.weights, row.where
        else:
            ids, labels, self.given, self.where = (
                row["input_ids"],
                row["labels"],
                row.get("weights"),
                row.get("where", ""),
            )
        self.ids = np.asarray(ids, dtype=np.int64)
        self.labels = np.array(labels, dtype=np.int64)
        self.labels[:1] = UNTRAINED

    @property
    def weighted(self) -> bool:
        return self.given is not None

    @property
    def weights(self) -> NDArray[np.float32]:
        """Loss weight of each token, 0 where it is not trained; 1 where the row says nothing of weights."""
        trained = self.labels != UNTRAINED
        return trained.astype(np.float32) if self.given is None else np.where(trained, self.given, 0).astype(np.float32)


def _unpacked(features: Sequence[Feature]) -> Iterator[Encoded | Mapping[str, Any]]:
    """The rows, those of a block one after the other."""
    for feature in features:
        if isinstance(feature, Encoded | Mapping):
            yield feature
        else:
            yield from feature


def _round_up(length: int, multiple: int | None) -> int:
    return length if not multiple else -(-length // multiple) * multiple
