"""What a row is called in a cache: a digest of its tokens and of which of them carry loss.

A row is found by what it says and not by its place, so the order of rows, repeats, batches and file names play no part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignkit.data.rows import Encoded
from alignkit.teachers.cache.shard import DIGEST_BYTES
from alignkit.teachers.teacher import RowTokens, row_tokens


def row_digest(row: RowTokens) -> bytes:
    """DIGEST_BYTES for a row's ids and the places of its tokens with loss."""
    found = hashlib.blake2b(row.ids.astype("<u4").tobytes(), digest_size=DIGEST_BYTES)
    found.update(np.packbits(row.labelled).tobytes())
    return found.digest()


@dataclass(frozen=True)
class Wanted:
    """The different rows of a data set that have a token with loss. ``places`` (R,): where each stands first;
    ``digests`` (R, 16); ``positions`` (R,): its tokens with loss; ``lengths`` (R,): its tokens."""

    places: NDArray[np.int64]
    digests: NDArray[np.uint8]
    positions: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.places)


def wanted_rows(rows: Sequence[Encoded]) -> Wanted:
    """Every different row once, read one by one and not held."""
    seen: set[bytes] = set()
    found: list[tuple[int, int, int]] = []
    digests = bytearray()
    for place, digest, tokens in digested(rows):
        positions = int(tokens.labelled.sum())
        if positions and digest not in seen:
            seen.add(digest)
            digests += digest
            found.append((place, positions, len(tokens.ids)))
    table = np.array(found, np.int64).reshape(-1, 3)
    named = np.frombuffer(bytes(digests), np.uint8).reshape(-1, DIGEST_BYTES)
    return Wanted(table[:, 0], named, table[:, 1], table[:, 2])


def digested(rows: Sequence[Encoded]) -> Iterator[tuple[int, bytes, RowTokens]]:
    """Place, digest and tokens of each row."""
    for place in range(len(rows)):
        row = rows[place]  # made anew from the disk at each look
        tokens = row_tokens(row.input_ids, row.labels)
        yield place, row_digest(tokens), tokens
