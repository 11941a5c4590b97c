"""Random choices that depend on the seed, the tensor and the position, and on nothing else.

Position p of a tensor has the 16 bits number p of the stream of Philox (Salmon et al. 2011, "Parallel random numbers:
as easy as 1, 2, 3", SC11), a generator that starts anywhere in its stream at no cost. So neither the order of the
chunks nor where they are cut matters. A density is a multiple of 1/65536, and what is kept is divided by exactly that.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

LEVELS = 1 << 16
"""Values that a draw has."""

PER_BLOCK = 16
"""Draws in one step of the generator's counter: 256 bits."""


def stream(key: bytes, model: int) -> int:
    """The generator's key for the draws of one model's tensor: 128 bits."""
    return int.from_bytes(blake2b(key, digest_size=16, salt=model.to_bytes(8, "little")).digest(), "little")


def draws(stream_key: int, start: int, count: int) -> NDArray[np.uint16]:
    """(count,) uniform in 0 … 65535, those of flat positions ``start`` and on."""
    block, skip = divmod(start, PER_BLOCK)
    generator = np.random.Philox(key=stream_key, counter=block)
    words = generator.random_raw((skip + count + 3) // 4)
    return words.astype("<u8", copy=False).view("<u2")[skip : skip + count]


def level(density: float) -> int:
    """The density in 1/65536: a position is kept where its draw is below. At least 1 unless the density is 0."""
    return min(LEVELS, max(round(density * LEVELS), 1 if density > 0 else 0))
