"""Stored numbers to float32 and back: the dtypes of safetensors, and bfloat16, which numpy does not have.

A bfloat16 is the upper half of a float32 (8 bits of exponent, 7 of mantissa). Reading one is a shift; writing one
rounds to the nearest, ties to the even neighbour, in integer arithmetic: adding 0x7FFF plus the last bit that stays
carries into the upper half exactly when the lower half is more than one half, or one half with an odd neighbour.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.tensors.jobs import Values

WIDTHS = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
"""Bytes of one element, for every dtype of safetensors that is made of whole bytes."""

FLOATS = ("F64", "F32", "F16", "BF16")
"""What can be merged. Everything else is copied as it is."""

_NUMPY: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}

# From this magnitude on, rounding to the nearest gives infinity: the largest finite number and half a step.
_OVERFLOW = {
    "F64": np.float32(np.inf),
    "F32": np.float32(np.inf),
    "F16": np.float32(65520.0),
    "BF16": np.uint32(0x7F7F8000).view(np.float32),
}

BLOCK = 1 << 16
"""Elements that are rounded at a time: 256 KB of scratch, which stays in the second-level cache."""

_SHIFT, _ONE, _HALF = np.uint32(16), np.uint32(1), np.uint32(0x7FFF)


def to_float32(buffer: bytes | bytearray | memoryview, dtype: str) -> Values:
    """Stored elements as a new (n,) float32 array. Exact but for F64, which is rounded to the nearest.

    Raises KeyError for a dtype that is not in FLOATS.
    """
    kept = np.frombuffer(buffer, dtype=_NUMPY[dtype])
    if dtype == "BF16":
        wide = kept.astype(np.uint32)  # (n,)
        np.left_shift(wide, _SHIFT, out=wide)
        return wide.view(np.float32)
    with np.errstate(all="ignore"):
        values: Values = kept.astype(np.float32)
    return values


def from_float32(values: Values, dtype: str) -> memoryview:
    """(n,) float32 as the bytes of a stored dtype, rounded to the nearest, ties to even; NaN stays NaN.

    Raises KeyError for a dtype that is not in FLOATS.
    """
    if dtype == "BF16":
        return _rounded(values).data.cast("B")
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(values.astype(_NUMPY[dtype], copy=False)).data.cast("B")


def fits(values: Values, dtype: str) -> bool:
    """Whether every value is finite and stays so when it is stored as ``dtype``."""
    if not values.size:
        return True
    limit = _OVERFLOW[dtype]
    # NaN comes out of either extreme and compares false.
    return bool(values.max() < limit) and bool(values.min() > -limit)


def _rounded(values: Values) -> NDArray[np.uint16]:
    """(n,) float32 to the bits of (n,) bfloat16."""
    bits = values.view(np.uint32)
    out = np.empty(bits.size, dtype=np.uint16)
    scratch = np.empty(min(BLOCK, bits.size), dtype=np.uint32)
    for start in range(0, bits.size, BLOCK):
        block = bits[start : start + BLOCK]
        work = scratch[: block.size]
        np.right_shift(block, _SHIFT, out=work)
        np.bitwise_and(work, _ONE, out=work)
        np.add(work, _HALF, out=work)
        np.add(work, block, out=work)
        np.right_shift(work, _SHIFT, out=work)
        np.copyto(out[start : start + BLOCK], work, casting="unsafe")
    if values.size and np.isnan(values.max()):
        # The carry of a NaN can run through its exponent into the sign: take its upper half and make it quiet.
        wrong = np.isnan(values)
        out[wrong] = (bits[wrong] >> _SHIFT).astype(np.uint16) | np.uint16(0x0040)
    return out
