"""Which rows are held out: by a stable hash of their content, so that reordering the file changes nothing.

The same content always falls on the same side, however often it stands in the file; a row's place, its other columns
and the training seed play no part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from alignkit.data.records import content_hash
from alignkit.data.rows import Encoded

__all__ = ["choose", "content_hash", "token_hash", "wanted"]


def token_hash(row: Encoded) -> bytes:
    """The same for a piece of a long text, of which only the tokens are known."""
    return hashlib.blake2b(",".join(map(str, row.input_ids)).encode(), digest_size=16).digest()


def wanted(holdout: int | float, rows: int) -> int:
    """How many of `rows` are to be held out: a count as it is, a share rounded, but at least one row."""
    if isinstance(holdout, int):
        return holdout
    return max(1, round(holdout * rows)) if holdout else 0


def choose(hashes: Sequence[bytes], count: int) -> list[int]:
    """Indices of the rows with the smallest hashes, in the order of their hashes: at least `count`, more only where
    the last one has doubles. So a smaller count takes the beginning of a larger one."""
    order = sorted(range(len(hashes)), key=lambda index: hashes[index])
    count = min(count, len(order))
    while 0 < count < len(order) and hashes[order[count]] == hashes[order[count - 1]]:
        count += 1
    return order[:count]
