"""Batches of prompts with answers, and where in them the reward of each answer is read.

The layouts are those of data/branching.py; a batch gets one key more:

    reward_at (A,) int64    the position, of the (B·T) flattened ones, at which answer a has been read to its end

That is the last token of trunk + branch that is not the pad token: the place where transformers' classifiers look, told
by the token and not by a mask. Where a model pads with its end token, that is the token before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, overload

import torch
from datasets import Dataset

from alignkit.data.branches import Branched
from alignkit.data.branching import Collator, Feature, apart, padded, shared
from alignkit.data.encoding.closing import Closing

Layout: TypeAlias = Literal["shared", "apart", "padded"]


def collator(layout: str, pad_id: int) -> Collator:
    """A collator of rows, or of (number, row), in a layout. ``pad_id``: the model's own (`config.pad_token_id`)."""
    lay = {"shared": shared, "apart": apart}[layout]() if layout != "padded" else padded(pad_id)

    def collate(features: Sequence[Feature]) -> dict[str, Any]:
        rows = [feature if isinstance(feature, Branched) else feature[1] for feature in features]
        return {**lay(features), "reward_at": torch.tensor(ends(rows, layout, pad_id), dtype=torch.int64)}

    return collate


def ends(rows: Sequence[Branched], layout: str, pad_id: int) -> list[int]:
    """Where each answer ends in a batch of ``rows``: the value of ``reward_at``."""
    width = max(len(row.trunk) + len(branch.ids) for row in rows for branch in row.branches)
    found, start = [], 0
    for row in rows:
        trunk = start
        if layout == "shared":
            start += len(row.trunk)
        for branch in row.branches:
            if layout != "shared":
                trunk, start = start, start + len(row.trunk)
            last = _last(branch.ids, pad_id)
            found.append(start + last if last >= 0 else trunk + max(0, _last(row.trunk, pad_id)))
            start = trunk + width if layout == "padded" else start + len(branch.ids)
    return found


def _last(ids: Sequence[int], pad_id: int) -> int:
    """The place of the last token that is no pad token; -1 where all are."""
    return next((place for place in range(len(ids) - 1, -1, -1) if ids[place] != pad_id), -1)


class Closed(Sequence[Branched]):
    """Rows whose answers end as the template's texts do, read when they are looked at."""

    def __init__(self, rows: Sequence[Branched], how: Closing) -> None:
        self.rows, self.how = rows, how

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Branched: ...
    @overload
    def __getitem__(self, index: slice) -> Closed: ...
    def __getitem__(self, index: int | slice) -> Branched | Closed:
        if isinstance(index, slice):
            return Closed(self.rows[index], self.how)
        return self.how.close(self.rows[index])


class Numbered(Sequence[tuple[int, Branched]]):
    """Rows with their numbers, read when they are looked at."""

    def __init__(self, rows: Sequence[Branched]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[int, Branched]:  # type: ignore[override]
        return index, self.rows[index]


def stand_in() -> Dataset:
    """One pair for the constructor of TRL's trainer; the rows themselves are given to the trainer afterwards."""
    return Dataset.from_dict({"chosen_ids": [[1]], "rejected_ids": [[2]]})
