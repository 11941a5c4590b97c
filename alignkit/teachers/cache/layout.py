"""How positions lie on the disk: which arrays, how many bytes each takes, and from records to arrays and back.

A row's positions stand together. Top-k entries are as many at every position; drawn tokens are as many as differ, so
their number is kept too.

Letters: R rows, P positions, E entries in all, k entries of a position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from alignkit.teachers.cache import coding
from alignkit.teachers.cache.coding import Bits
from alignkit.teachers.cache.record import Kind, Record

Arrays: TypeAlias = dict[str, NDArray[Any]]

ROW_BYTES = 16 + 8 + 8
"""Of a row: its digest, and where its positions and its entries end."""
LIMIT = 300
"""Bytes a position that a cache may take unless a recipe allows more."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What decides how a record becomes bytes."""

    kind: Kind
    entries: int
    """k of top-k, or how many tokens are drawn."""
    bits: Bits
    """Of a log-probability."""
    vocabulary: int
    """Ids lie below this."""
    temperature: float
    """Of the softmax that was recorded."""

    def __post_init__(self) -> None:
        if self.kind == "top-k" and self.entries > self.vocabulary:
            raise ValueError(f"{self.entries} entries of a vocabulary of {self.vocabulary}")

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @property
    def id_bytes(self) -> int:
        return coding.id_bytes(self.vocabulary)

    @property
    def draw_type(self) -> np.dtype[Any]:
        """How often a token was drawn."""
        return np.dtype("<u1" if self.entries < 256 else "<u2")

    @property
    def entry_bytes(self) -> int:
        """Of one token: its id, its log-probability, and how often it was drawn."""
        draws = self.draw_type.itemsize if self.kind == "sampled" else 0
        return self.id_bytes + coding.code_type(self.bits).itemsize + draws

    @property
    def fixed_bytes(self) -> int:
        """Of a position beside its entries: the tail's mass or the number of entries, and the edges of 8 bits."""
        own = 2 if self.kind == "sampled" else self._tail_type.itemsize
        return own + (4 if self.bits == 8 else 0)

    @property
    def most_bytes(self) -> int:
        """Bytes of a position at most; of top-k, always."""
        return self.fixed_bytes + self.entries * self.entry_bytes

    @property
    def _tail_type(self) -> np.dtype[Any]:
        return np.dtype("<f4" if self.bits == 32 else "<u2")

    def encoded(self, record: Record) -> Arrays:
        """Arrays of some positions: ids (E, id_bytes), codes (E,); tails (P,) or counts (P,) and draws (E,); edges
        (P, 2) where a log-probability has 8 bits."""
        present = np.ones(record.ids.shape, bool) if record.draws is None else record.draws > 0
        if record.draws is None and record.ids.shape[1] != self.entries:
            raise ValueError(f"{record.ids.shape[1]} entries where the cache has {self.entries}")
        values = np.ascontiguousarray(record.log_probs[present])
        arrays: Arrays = {"ids": coding.pack_ids(record.ids[present], self.id_bytes)}
        if self.bits == 8:
            edges = coding.spans(record.log_probs, present & np.isfinite(record.log_probs))
            arrays["edges"] = edges
            arrays["codes"] = coding.encode_8(values, edges.repeat(present.sum(-1), axis=0))
        else:
            arrays["codes"] = values.astype("<f4") if self.bits == 32 else coding.encode_16(values)
        if record.draws is None:
            assert record.log_tail is not None
            tail = record.log_tail
            arrays["tails"] = tail.astype("<f4") if self.bits == 32 else coding.encode_16(tail)
        else:
            arrays["counts"] = present.sum(-1).astype("<u2")
            arrays["draws"] = record.draws[present].astype(self.draw_type)
        return arrays

    def decoded(self, parts: Sequence[Mapping[str, NDArray[Any]]]) -> Record:
        """Positions of several parts, one after the other."""
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        ids = coding.unpack_ids(whole["ids"])
        if self.kind == "top-k":
            shape = len(whole["tails"]), self.entries
            values = self._values(whole, np.full(shape[0], self.entries)).reshape(shape)
            tails = whole["tails"].astype(np.float32) if self.bits == 32 else coding.decode_16(whole["tails"])
            return _normalised(Record(ids.reshape(shape), values, log_tail=tails), exact=self.bits == 32)
        counts = whole["counts"].astype(np.int64)
        values = self._values(whole, counts)
        width = int(counts.max(initial=1))
        present = np.arange(width) < counts[:, None]  # (P, width)
        wide_ids = np.zeros(present.shape, np.int64)
        log_probs = np.full(present.shape, -np.inf, np.float32)
        draws = np.zeros(present.shape, np.int64)
        wide_ids[present], log_probs[present], draws[present] = ids, values, whole["draws"]
        return Record(wide_ids, log_probs, draws=draws)

    def nothing(self) -> Record:
        """No position at all."""
        none = Record(np.zeros((0, 1), np.int64), np.zeros((0, 1), np.float32))
        if self.kind == "top-k":
            return replace(none, log_tail=np.zeros(0, np.float32))
        return replace(none, draws=np.zeros((0, 1), np.int64))

    def _values(self, whole: Arrays, counts: NDArray[Any]) -> NDArray[np.float32]:
        """(E,) nats."""
        if self.bits == 8:
            return coding.decode_8(whole["codes"], whole["edges"].repeat(counts, axis=0))
        return whole["codes"].astype(np.float32) if self.bits == 32 else coding.decode_16(whole["codes"])


def _normalised(record: Record, *, exact: bool) -> Record:
    """Entries and tail that sum to 1 again: each was rounded for itself. At most this doubles an entry's error."""
    if exact:
        return record
    assert record.log_tail is not None
    # Close to 0 as it is: no entry is above 0, and rounding moved the sum little from 1.
    total = np.log(np.exp(record.log_probs).sum(-1, dtype=np.float64) + np.exp(record.log_tail)).astype(np.float32)
    return Record(record.ids, record.log_probs - total[:, None], log_tail=record.log_tail - total)
