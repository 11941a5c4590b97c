"""Numbers in few bytes: token ids in two to four, log-probabilities in one, two or four. Pure.

Two bytes hold -log p in equal steps from 0 to 32 nats: one bound for every value, where the steps of fp16 grow with the
value. One byte holds it in 254 steps between the largest and the smallest of its position. The last code of each means
that nothing is there (log 0).

Letters: n values, P positions, k entries of a position.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Bits: TypeAlias = Literal[8, 16, 32]
Bytes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]

DEEPEST = 32.0
"""Nats: a smaller probability than e^-32 (1e-14) is kept as that."""
_LAST = {8: 0xFF, 16: 0xFFFF}
STEP_16 = DEEPEST / (_LAST[16] - 1)
"""Nats between two codes of 16 bits; a value is off by half of it at most."""


def id_bytes(vocabulary: int) -> int:
    """Bytes that hold every id below ``vocabulary``: 2, 3 or 4."""
    return 2 if vocabulary <= 1 << 16 else 3 if vocabulary <= 1 << 24 else 4


def pack_ids(ids: NDArray[Any], width: int) -> Bytes:
    """Ids (n,) as (n, width) bytes, little-endian."""
    whole = np.ascontiguousarray(ids, dtype="<u4").view(np.uint8).reshape(-1, 4)
    return np.ascontiguousarray(whole[:, :width])


def unpack_ids(packed: Bytes) -> NDArray[np.int64]:
    """(n, width) bytes back to ids (n,)."""
    whole = np.zeros((len(packed), 4), np.uint8)
    whole[:, : packed.shape[1]] = packed
    return whole.view("<u4")[:, 0].astype(np.int64)


def code_type(bits: Bits) -> np.dtype[Any]:
    """How one value lies on the disk."""
    return np.dtype({8: "<u1", 16: "<u2", 32: "<f4"}[bits])


def encode_16(log_probs: Floats) -> NDArray[np.uint16]:
    """Codes of values in nats; -inf gets the last one."""
    with np.errstate(invalid="ignore"):
        steps = np.rint(np.clip(-log_probs.astype(np.float64), 0.0, DEEPEST) / STEP_16)
    return np.where(np.isneginf(log_probs), _LAST[16], steps).astype("<u2")


def decode_16(codes: NDArray[np.uint16]) -> Floats:
    """Nats, at most half a STEP_16 from what was encoded (values below -DEEPEST come back as that)."""
    return _TABLE[codes]


def _table() -> Floats:
    """What each code of 16 bits stands for."""
    values = (np.arange(_LAST[16] + 1) * -STEP_16).astype(np.float32)
    values[_LAST[16]] = -np.inf
    return values


_TABLE = _table()


def spans(log_probs: Floats, present: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """(P, 2) codes of 16 bits: the largest and the smallest value of each position, rounded outwards."""
    high = np.where(present, log_probs, -np.inf).max(-1, initial=-np.inf)
    low = np.where(present, log_probs, np.inf).min(-1, initial=np.inf)
    high, low = (np.where(np.isfinite(one), one, 0.0).astype(np.float64) for one in (high, low))
    edges = np.stack([np.floor(np.clip(-high, 0, DEEPEST) / STEP_16), np.ceil(np.clip(-low, 0, DEEPEST) / STEP_16)], -1)
    return edges.astype("<u2")


def encode_8(log_probs: Floats, edges: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Codes (n,) of values (n,), each between its position's edges (n, 2); -inf gets the last one."""
    high, width = _edges(edges)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.clip((high - log_probs.astype(np.float64)) / np.where(width > 0, width, 1.0), 0.0, 1.0)
    codes = np.rint(np.where(np.isneginf(log_probs), 0.0, share) * (_LAST[8] - 1))
    return np.where(np.isneginf(log_probs), _LAST[8], codes).astype(np.uint8)


def decode_8(codes: NDArray[np.uint8], edges: NDArray[np.uint16]) -> Floats:
    """Nats; see ``error_bound``."""
    high, width = _edges(edges)
    values = (high - codes.astype(np.float64) / (_LAST[8] - 1) * width).astype(np.float32)
    values[codes == _LAST[8]] = -np.inf
    return values


def error_bound(bits: Bits, edges: NDArray[np.uint16] | None = None) -> NDArray[np.float64]:
    """Nats that a decoded value may be off by, as far as it lies within DEEPEST: () or, of 8 bits, (P,).

    A float's own rounding (DEEPEST times 2^-24) comes on top, except where 32 bits keep the value as it is.
    """
    if bits == 32:
        return np.zeros(())
    rounding = DEEPEST * 2.0**-24
    if bits == 16:
        return np.asarray(STEP_16 / 2 + rounding)
    assert edges is not None
    found: NDArray[np.float64] = _edges(edges)[1] / (2 * (_LAST[8] - 1)) + rounding
    return found


def _edges(edges: NDArray[np.uint16]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The largest value of each and how far below it the smallest lies, in nats."""
    high, low = edges[..., 0].astype(np.float64), edges[..., 1].astype(np.float64)
    return high * -STEP_16, (low - high) * STEP_16
