"""Where a fine-tune differs from its base, tensor by tensor; nothing larger than two tensors is held.

W tuned and W₀ base; linear weights are seen as (out, in), whichever way they are stored.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from alignkit.errors import Fault
from alignkit.stages.merge.adapters import TensorModel, stored_name
from alignkit.stages.merge.architecture import BUFFERS
from alignkit.stages.merge.vocabulary import roles
from alignkit.tensors.numbers import FLOATS

_BLOCK = 1 << 18


@dataclass
class Pair:
    """A fine-tune and its base, with their tensors matched by name."""

    tuned: TensorModel
    base: TensorModel
    names: dict[str, str] = field(default_factory=dict)
    """Name of each tensor in the base to its name in the fine-tune. A head that the fine-tune ties is its embedding."""
    embedding: str | None = None
    head: str | None = None
    """Names in the base; a head that only the fine-tune has by the fine-tune's."""
    tied: bool = False
    """Embedding and head are one matrix in both."""
    new_head: bool = False
    """The base ties its head, and the fine-tune has one of its own."""

    @classmethod
    def match(cls, tuned: TensorModel, base: TensorModel) -> tuple[Pair, list[Fault]]:
        """The pair, and every fault: tensors that one lacks, shapes that differ by more than new tokens."""
        pair = cls(tuned, base)
        ours, theirs = roles(base), roles(tuned)
        pair.embedding, pair.head = ours.get("embedding"), ours.get("head")
        if "head" not in ours and "head" in theirs:
            pair.head, pair.new_head = theirs["head"], True
        pair.tied = pair.head is None
        lacking, faults = [], []
        for name in base.tensors:
            if BUFFERS.search(name):
                continue
            own = stored_name(name, tuned.tensors)
            if own is None and name == pair.head:
                own = theirs.get("embedding")
            if own is None:
                lacking.append(name)
                continue
            pair.names[name] = own
            if not _fits(tuned.shape(own), base.shape(name), name in ours.values()):
                what = f"{name} is {tuned.shape(own)}, and {base.shape(name)} in the base"
                faults.append(Fault(where="extract.base.name", what=what, instead="Give the base of this fine-tune."))
        known = {*pair.names.values(), *([pair.head] if pair.new_head else [])}
        more = [name for name in tuned.tensors if name not in known and not BUFFERS.search(name)]
        for names, what in ((lacking, "the fine-tune has no"), (more, "the base has no")):
            if names:
                said = f"{what} {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
                faults.append(Fault(where="extract.base.name", what=said, instead="Give the base of this fine-tune."))
        return pair, faults

    @property
    def new_rows(self) -> int:
        """Rows that the fine-tune's vocabulary has beyond the base's."""
        if self.embedding is None:
            return 0
        return self.tuned.shape(self.names[self.embedding])[0] - self.base.shape(self.embedding)[0]

    def delta(self, name: str, *, transposed: bool) -> NDArray[np.float32]:
        """W − W₀ as (out, in) float32."""
        count = self.base.tensors[name].count
        found = self.tuned.read(self.names[name], 0, count)
        for start in range(0, count, _BLOCK):
            stop = min(start + _BLOCK, count)
            found[start:stop] -= self.base.read(name, start, stop)
        matrix = found.reshape(self.base.shape(name))
        return np.ascontiguousarray(matrix.T) if transposed else matrix

    def differs(self, name: str) -> bool:
        """Whether any element of a tensor is another number (bytes, for what is not computed with)."""
        own = self.names[name]
        count = self.base.tensors[name].count
        floats = self.base.dtype(name) in FLOATS and self.tuned.dtype(own) in FLOATS
        for start in range(0, count, _BLOCK):
            stop = min(start + _BLOCK, count)
            if floats:
                same = np.array_equal(
                    self.tuned.read(own, start, stop), self.base.read(name, start, stop), equal_nan=True
                )
            else:
                same = self.tuned.raw(own, start, stop) == self.base.raw(name, start, stop)
            if not same:
                return True
        return False

    def changed_rows(self, name: str) -> list[int]:
        """Rows of a vocabulary's matrix that are other numbers, or new."""
        rows, width = self.base.shape(name)
        own = self.names[name]
        step = max(1, _BLOCK // width)
        found: list[int] = []
        for first in range(0, rows, step):
            last = min(first + step, rows)
            tuned = self.tuned.read(own, first * width, last * width).reshape(-1, width)
            base = self.base.read(name, first * width, last * width).reshape(-1, width)
            found += (first + np.flatnonzero((tuned != base).any(axis=1))).tolist()
        return [*found, *range(rows, self.tuned.shape(own)[0])]

    def rows(self, name: str, ids: list[int]) -> NDArray[np.float32]:
        """Rows (k, D) of the fine-tune."""
        width = self.base.shape(name)[1]
        own = self.names[name]
        return np.stack([self.tuned.read(own, row * width, (row + 1) * width) for row in ids])


def _fits(tuned: tuple[int, ...], base: tuple[int, ...], vocabulary: bool) -> bool:
    return tuned == base or (vocabulary and tuned[1:] == base[1:] and tuned[0] > base[0])


def others(pair: Pair, targets: Collection[str]) -> list[str]:
    """Names of the tensors that are no target and not the vocabulary's."""
    return [name for name in pair.names if name not in targets and name not in (pair.embedding, pair.head)]
