"""Comparisons of a pool as prompts with their answers, read from the stores when they are looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from alignkit.data.branches import Branch, Branched
from alignkit.data.pool import Numbers, Pool
from alignkit.data.rows import Feedback, Preference, Scored
from alignkit.data.store.rowstore import RowStore, View

Wanted: TypeAlias = Literal["preference", "feedback", "scored"]
"""Pairs, single answers that were wanted or not, or single answers with a number."""


class Comparisons(Sequence[Branched]):
    """Documents of one kind, one after the other. It can be sent to another process, and takes a few bytes a row."""

    def __init__(self, view: View, branches: int) -> None:
        """``view``: the rows of the documents, ``branches`` for each (pairs 2, others 1), the best first."""
        self.view, self.branches = view, branches

    @classmethod
    def of(cls, pool: Pool, documents: Numbers, wants: Wanted) -> Comparisons:
        """Documents of a pool; those of which nothing is left have no row."""
        return cls(pool.rows(documents), 2 if wants == "preference" else 1)

    def __len__(self) -> int:
        return len(self.view) // self.branches

    @overload
    def __getitem__(self, index: int) -> Branched: ...
    @overload
    def __getitem__(self, index: slice) -> Comparisons: ...
    def __getitem__(self, index: int | slice) -> Branched | Comparisons:
        view, count = self.view, self.branches
        if isinstance(index, slice):
            which, rows = view.which.reshape(-1, count)[index], view.rows.reshape(-1, count)[index]
            return Comparisons(View(view.stores, which.reshape(-1), rows.reshape(-1)), count)
        first = range(len(self))[index] * count
        return _branched(view.stores[view.which[first]], int(view.rows[first]), count)

    def __iter__(self) -> Iterator[Branched]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """(n,) tokens of each row, the trunk counted once."""
        whole = self._by_row(self.view.lengths).sum(1)
        trunks = self._by_row(self.view.gather("trunks"))[:, 0]
        return np.asarray(whole - (self.branches - 1) * trunks, np.int32)

    @property
    def scored(self) -> int:
        """Tokens of all answers."""
        return int(self.view.trained.sum(dtype=np.int64))

    @property
    def desirable(self) -> NDArray[np.bool_]:
        """(n,) of feedback: whether each answer was wanted."""
        return np.asarray(self._by_row(self.view.gather("parts"))[:, 0] == 1)

    @property
    def prompts(self) -> NDArray[np.uint64]:
        """(n, 2) hashes of what was asked: the same for answers to the same prompt."""
        found = np.zeros((len(self), 2), np.uint64)
        which = self._by_row(self.view.which)[:, 0]
        documents = self._by_row(self.view.gather("documents"))[:, 0]
        for number, store in enumerate(self.view.stores):
            mine = which == number
            found[mine] = store.prompts[documents[mine]]
        return found

    def _by_row(self, values: NDArray[Any]) -> NDArray[Any]:
        """(n·branches,) as (n, branches)."""
        return values.reshape(-1, self.branches)


def _branched(store: RowStore, first: int, count: int) -> Branched:
    """One document: the rows from ``first`` on, as many as it has answers."""
    trunk = int(store.trunks[first])
    start = int(store.offsets[first])
    branches = []
    for row in range(first, first + count):
        begin, end = int(store.offsets[row]) + trunk, int(store.offsets[row + 1])
        branches.append(Branch(store.tokens[begin:end].tolist(), store.mask[begin:end].astype(bool).tolist()))
    number = int(store.documents[first])
    document = store.document(number)
    assert isinstance(document, Preference | Feedback | Scored)
    margin = None
    if isinstance(document, Preference) and document.chosen_score is not None and document.rejected_score is not None:
        margin = document.chosen_score - document.rejected_score
    return Branched(
        trunk=store.tokens[start : start + trunk].tolist(),
        branches=tuple(branches),
        where=store.document_where(number),
        desirable=document.label if isinstance(document, Feedback) else None,
        margin=margin,
        score=document.score if isinstance(document, Scored) else None,
        plain=isinstance(document.prompt, str),
        group=document.group if isinstance(document, Preference) else None,
    )
