"""What the data loader asks for: one row, or one block of rows, at a time, out of rows that lie on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.utils.data

from alignkit.config.recipe import GradientRecipe
from alignkit.console import log
from alignkit.data.mixing.packing import Blocks, best_fit, padding_report
from alignkit.data.prepare import Prepared, lengths_of
from alignkit.data.rows import Encoded


class TrainingRows(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Item i is row i; with ``blocks``, the list of rows of block i. Nothing is held in memory."""

    def __init__(self, rows: Sequence[Encoded], blocks: Blocks | None = None) -> None:
        self.rows, self.blocks = rows, blocks

    @property
    def lengths(self) -> Any:
        """Tokens of each item, as a numpy array."""
        return lengths_of(self.rows) if self.blocks is None else self.blocks.sizes

    def __len__(self) -> int:
        return len(self.rows) if self.blocks is None else len(self.blocks)

    def __getitem__(self, index: int) -> Encoded | list[Encoded]:
        if self.blocks is None:
            return self.rows[index]
        return [self.rows[int(row)] for row in self.blocks[index]]


def blocks_of(recipe: GradientRecipe, prepared: Prepared, micro: int) -> Blocks | None:
    """The blocks of data.packing=best-fit, said out loud; None where rows stay rows. ``micro``: items of a batch."""
    if recipe.data.packing != "best-fit":
        return None
    blocks = best_fit(prepared.lengths, recipe.data.max_length, seed=recipe.seed)
    for line in padding_report(prepared.lengths, micro, blocks):
        log.say(line)
    return blocks


def sample(rows: Sequence[Encoded]) -> Any:
    """A `datasets.Dataset` of the first row. TRL's trainers look at the columns of one while they are built; the rows
    themselves are given to the trainer afterwards, since a Dataset would hold a second copy of all of them."""
    from datasets import Dataset

    return Dataset.from_dict({"input_ids": [rows[0].input_ids], "labels": [rows[0].labels]})
