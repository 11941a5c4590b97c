"""Position ids of the documents of a packed row: as they are, or with gaps that reach far (PoSE). Pure, in numpy.

n tokens of a document, m chunks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def plain_positions(lengths: Sequence[int]) -> NDArray[np.int64]:
    """0, 1, 2 … from the start of each document, (sum of lengths,)."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def skipped_positions(length: int, target: int, chunks: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Positions of one document that is cut into chunks which stand apart (Zhu et al. 2023, "PoSE", section 3.2).

    Chunk lengths are drawn uniformly, and so is how far each chunk skips: u_0 = 0 and u_i from u_{i-1} to
    target - length. The text of the chunks stays one text (their v_i = 0). Positions rise, stay below
    ``target``, and are next to each other within a chunk. A document with fewer tokens than chunks skips less often.

    Args:
        length: n, at most ``target``.
        target: the window to reach.
        chunks: m, at least 1.

    Returns:
        (n,) positions.
    """
    if length > target:
        raise ValueError(f"{length} tokens do not fit into {target} positions")
    pieces = min(chunks, length)
    cuts = np.sort(generator.choice(length - 1, size=pieces - 1, replace=False)) + 1 if length > 1 else np.zeros(0, int)
    skips = np.zeros(pieces, np.int64)
    for number in range(1, pieces):
        skips[number] = generator.integers(skips[number - 1], target - length, endpoint=True)
    sizes = np.diff([0, *cuts, length])
    return np.arange(length, dtype=np.int64) + np.repeat(skips, sizes)
