"""Encoded rows become batches: laid end to end, or padded; and the order in which an epoch takes them.

Letters: B rows, T tokens of the batch (padded: the longest row; end to end: the sum).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch.utils.data import Sampler

from alignkit.data.rows import UNTRAINED, Encoded

Feature: TypeAlias = Encoded | Mapping[str, Any]
"""A row: an Encoded, or a mapping with input_ids, labels and (for messages to people) where."""

Collator: TypeAlias = Callable[[Sequence[Feature]], dict[str, Any]]

WINDOW = 50
"""Batches whose rows are sorted by length together: enough for alike lengths, few enough to keep epochs mixed."""


def flatten(*, pad_id: int = 0, pad_to_multiple_of: int | None = None) -> Collator:
    """A collator that lays rows end to end in one sequence, without padding; they never see each other.

    It gives ``input_ids``, ``labels``, ``position_ids`` (1, T), int64; ``document_lengths``: list[int], summing to T;
    ``rows``: where each row stands in its source. The first label of each document is -100, since the causal shift
    would otherwise predict it from the last token of the document before; positions start again at 0.
    With ``pad_to_multiple_of`` the padding is one more document, without labels.
    """

    def collate(features: Sequence[Feature]) -> dict[str, Any]:
        rows = [_parts(feature) for feature in features]
        lengths = [len(ids) for ids, _, _ in rows]
        ids = [token for row, _, _ in rows for token in row]
        labels = [label for _, row, _ in rows for label in (UNTRAINED, *row[1:])]
        padding = _round_up(len(ids), pad_to_multiple_of) - len(ids)
        if padding:
            lengths.append(padding)
            ids += [pad_id] * padding
            labels += [UNTRAINED] * padding
        positions = [position for length in lengths for position in range(length)]
        return {
            "input_ids": torch.tensor([ids]),  # (1, T)
            "labels": torch.tensor([labels]),  # (1, T)
            "position_ids": torch.tensor([positions]),  # (1, T)
            "document_lengths": lengths,
            "rows": [where for _, _, where in rows],
        }

    return collate


def pad(pad_id: int, *, pad_to_multiple_of: int | None = None) -> Collator:
    """A collator that pads rows on the right to the longest.

    It gives ``input_ids``, ``labels``, ``attention_mask`` (B, T), int64; ``rows``: where each row stands in its source.
    Labels are -100 on padding by position, not by token: a pad token that is also the eos token does not cost the
    row its eos.
    """

    def collate(features: Sequence[Feature]) -> dict[str, Any]:
        rows = [_parts(feature) for feature in features]
        width = _round_up(max(len(ids) for ids, _, _ in rows), pad_to_multiple_of)
        ids = torch.full((len(rows), width), pad_id, dtype=torch.long)  # (B, T)
        labels = torch.full((len(rows), width), UNTRAINED, dtype=torch.long)  # (B, T)
        mask = torch.zeros((len(rows), width), dtype=torch.long)  # (B, T)
        for number, (row_ids, row_labels, _) in enumerate(rows):
            length = len(row_ids)
            ids[number, :length] = torch.tensor(row_ids)
            labels[number, 1:length] = torch.tensor(row_labels[1:])
            mask[number, :length] = 1
        return {
            "input_ids": ids,
            "labels": labels,
            "attention_mask": mask,
            "rows": [where for _, _, where in rows],
        }

    return collate


class RowOrder(Sampler[int]):
    """Row indices of an epoch, every row once; the order is a function of (seed, epoch) alone, so a resumed run finds
    its place again.

    With ``group_by_length`` the rows of each batch have similar lengths: rows are shuffled, cut into windows, sorted
    by length within each window, and the batches shuffled again, so that lengths do not go from long to short over
    the epoch. The batch with the longest row comes first: what does not fit in memory fails at once and not after an
    hour. A batch that is not full comes last, so that batches here are batches there.
    """

    def __init__(self, lengths: Sequence[int], *, seed: int, batch: int, group_by_length: bool = False) -> None:
        self.lengths = list(lengths)
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
        generator = torch.Generator()
        generator.manual_seed(self.seed * 1_000_003 + self.epoch)
        order: list[int] = torch.randperm(len(self.lengths), generator=generator).tolist()
        if not self.group_by_length:
            yield from order
            return
        batches: list[list[int]] = []
        for start in range(0, len(order), self.batch * WINDOW):
            window = sorted(order[start : start + self.batch * WINDOW], key=lambda row: -self.lengths[row])
            batches += [window[at : at + self.batch] for at in range(0, len(window), self.batch)]
        rest = batches.pop() if batches and len(batches[-1]) < self.batch else []
        batches = [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]
        if batches:
            longest = max(range(len(batches)), key=lambda index: self.lengths[batches[index][0]])
            batches[0], batches[longest] = batches[longest], batches[0]
        yield from (row for batch in (*batches, rest) for row in batch)


def _parts(feature: Feature) -> tuple[Sequence[int], Sequence[int], str]:
    """(input_ids, labels, where) of a row."""
    if isinstance(feature, Encoded):
        return feature.input_ids, feature.labels, feature.where
    return feature["input_ids"], feature["labels"], feature.get("where", "")


def _round_up(length: int, multiple: int | None) -> int:
    return length if not multiple else -(-length // multiple) * multiple
