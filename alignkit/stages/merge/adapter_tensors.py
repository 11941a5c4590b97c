"""One tensor with an adapter in it, as a chain of small readers: stored, grown, with rows, with low-rank sums.

Each reader has a shape and gives any stretch of the flattened tensor; whoever needs whole rows reads the rows around
it. Memory: the chunk, and the factors of a few modules at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from alignkit.stages.merge.adapter_reading import Adapter, LowRank, Matrix
from alignkit.tensors.jobs import Source, Values

BLOCK = 1 << 18
"""Elements read at a time where a whole tensor has to be looked through."""


class Tensor(Protocol):
    """One tensor that can be read in stretches."""

    shape: tuple[int, ...]

    def read(self, start: int, stop: int) -> Values:
        """Elements start to stop of the flattened tensor, a new float32 array."""
        ...


class Stored:
    """A tensor as a source has it."""

    def __init__(self, source: Source, name: str) -> None:
        self.source, self.name = source, name
        self.shape = source.shape(name)

    def read(self, start: int, stop: int) -> Values:
        return self.source.read(self.name, start, stop)


class Grown:
    """A vocabulary made larger: what is new is the mean of the first `mean_of` rows (of the elements, for a bias)."""

    def __init__(self, inner: Tensor, rows: int, mean_of: int) -> None:
        self.inner, self.mean_of = inner, mean_of
        self.shape = (rows, *inner.shape[1:])
        self._lock = threading.Lock()
        self._mean: Values | None = None

    def read(self, start: int, stop: int) -> Values:
        width = width_of(self.shape)
        own = self.inner.shape[0] * width
        parts = [self.inner.read(start, min(stop, own))] if start < own else []
        if stop > own:
            first = max(start, own)
            parts.append(np.resize(np.roll(self.mean(), -(first % width)), stop - first))
        return np.concatenate(parts) if len(parts) != 1 else parts[0]

    def mean(self) -> Values:
        """The row (width,) that new rows start from, summed in float64."""
        with self._lock:
            if self._mean is None:
                width = width_of(self.shape)
                self._mean = (row_sum(self.inner, self.mean_of) / self.mean_of).astype(np.float32).reshape(width)
            return self._mean


class WithRows:
    """Some rows replaced by trained ones."""

    def __init__(self, inner: Tensor, ids: Sequence[int], rows: Matrix) -> None:
        self.inner, self.rows = inner, rows  # (k, D)
        self.shape = inner.shape
        self.ids = np.asarray(ids, dtype=np.int64)

    def read(self, start: int, stop: int) -> Values:
        values = self.inner.read(start, stop)
        width = width_of(self.shape)
        inside = (self.ids * width < stop) & ((self.ids + 1) * width > start)
        for at in np.flatnonzero(inside):
            begin = int(self.ids[at]) * width - start
            low, high = max(begin, 0), min(begin + width, stop - start)
            values[low:high] = self.rows[at, low - begin : high - begin]
        return values


class Biased:
    """A bias with the scaled bias of an adapter's B added."""

    def __init__(self, inner: Tensor, more: Matrix) -> None:
        self.inner, self.more, self.shape = inner, more.reshape(-1), inner.shape

    def read(self, start: int, stop: int) -> Values:
        return self.inner.read(start, stop) + self.more[start:stop]


@dataclass(eq=False)
class Update:
    """What one adapter adds to one weight."""

    adapter: Adapter
    part: LowRank
    transposed: bool
    """The weight is stored (in, out): as GPT-2's layers, and as embeddings (V, D)."""
    _norms: Values | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def delta(self, first: int, last: int) -> Matrix:
        """Rows `first` to `last` of s·B·A as the weight is stored."""
        a, b = _factors(self.adapter, self.part)
        if self.transposed:
            return a[:, first:last].T @ b.T * np.float32(self.part.scale)
        return b[first:last] @ a * np.float32(self.part.scale)

    def add(self, total: Matrix, weight: Matrix, base: Tensor, first: int) -> None:
        """Add the change of the rows from `first` on to `total`; `weight` are those rows of the base.

        DoRA (Liu et al. 2024, equation 5): m·(W + s·B·A)/‖W + s·B·A‖ with the norm over the inputs of each output.
        PEFT adds its difference from W, so that several adapters add up.
        """
        delta = self.delta(first, first + len(total))
        if self.part.magnitude is None:
            total += delta
            return
        magnitude = self.adapter.read(self.part.magnitude).reshape(-1)  # (out,)
        moved = weight + delta
        if self.transposed:
            factor = (magnitude / self._column_norms(base))[None, :]
        else:
            factor = (magnitude[first : first + len(total)] / _norms_of(moved))[:, None]
        total += factor * moved - weight

    def _column_norms(self, base: Tensor) -> Values:
        """(out,) norms of the columns of W + s·B·A, which every chunk of rows needs; the weight is read once for it."""
        with self._lock:
            if self._norms is None:
                rows, width = base.shape
                squares = np.zeros(width)
                step = max(1, BLOCK // width)
                for first in range(0, rows, step):
                    last = min(first + step, rows)
                    moved = base.read(first * width, last * width).reshape(-1, width) + self.delta(first, last)
                    squares += np.einsum("ij,ij->j", moved, moved, dtype=np.float64)
                self._norms = np.sqrt(squares).astype(np.float32)
            return self._norms


class Sum:
    """A weight (rows, columns) plus the changes of one or more adapters."""

    def __init__(self, inner: Tensor, updates: tuple[Update, ...] = ()) -> None:
        self.inner, self.updates = inner, updates
        self.shape = inner.shape

    def plus(self, update: Update) -> Sum:
        """The same with one adapter more."""
        return Sum(self.inner, (*self.updates, update))

    def read(self, start: int, stop: int) -> Values:
        width = self.shape[1]
        first, last = start // width, -(-stop // width)
        weight = self.inner.read(first * width, last * width).reshape(-1, width)
        apart = any(update.part.magnitude for update in self.updates)  # DoRA needs the base as it was
        total = weight.copy() if apart else weight
        for update in self.updates:
            update.add(total, weight, self.inner, first)
        return total.reshape(-1)[start - first * width : stop - first * width]


def width_of(shape: tuple[int, ...]) -> int:
    """Elements of one row; 1 for a vector."""
    return int(np.prod(shape[1:], dtype=np.int64))


def row_sum(tensor: Tensor, rows: int) -> NDArray[np.float64]:
    """(width,) float64 sum of the first rows."""
    width = width_of(tensor.shape)
    total = np.zeros(width)
    step = max(1, BLOCK // width)
    for first in range(0, rows, step):
        last = min(first + step, rows)
        total += tensor.read(first * width, last * width).reshape(-1, width).sum(axis=0, dtype=np.float64)
    return total


def _norms_of(rows: Matrix) -> Values:
    norms: Values = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64)).astype(np.float32)
    return norms


def _factors(adapter: Adapter, part: LowRank) -> tuple[Matrix, Matrix]:
    """A and B as float32; those of the last few modules are kept, since a weight is read in many chunks."""
    return _read_factors(adapter.file, part.a, part.b)


@lru_cache(maxsize=8)
def _read_factors(file: Source, a: str, b: str) -> tuple[Matrix, Matrix]:
    return (
        file.read(a, 0, int(np.prod(file.shape(a)))).reshape(file.shape(a)),
        file.read(b, 0, int(np.prod(file.shape(b)))).reshape(file.shape(b)),
    )
