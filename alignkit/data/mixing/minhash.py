"""MinHash: a short signature from which the likeness of two texts can be told.

Likeness is the Jaccard similarity of two texts' sets of word 5-grams. The smallest value that a random permutation of
all 5-grams gives to a text's own is the same for two texts with just that probability (Broder 1997, "On the resemblance
and containment of documents"); a signature holds the smallest values of 128 permutations. Texts that agree in all
values of some band of the signature are candidates (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets",
section 3.4).

Nothing here depends on the process: word hashes are BLAKE2b, permutations come from a fixed sequence.
"""

from __future__ import annotations

import hashlib
import re
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Grams: TypeAlias = NDArray[np.uint64]
"""5-grams of a text as hashes, (g,) uint64, in the order of the text, with repetitions."""

Signature: TypeAlias = NDArray[np.uint32]
"""(128,) uint32, or (n, 128) of several texts."""

GRAM = 5
PERMUTATIONS = 128
RECALL = 0.98
"""Probability with which two texts that are just alike enough become candidates."""

_WORDS_KEPT = 1 << 18
_AT_ONCE = 1 << 12
"""5-grams that are permuted at a time: 4 MiB of products."""

_UNSPACED = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Thai, Lao, Khmer, Japanese, Chinese: no spaces between words, so each character counts as one."""
_WORD = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")


def _mix(x: Grams) -> Grams:
    """A bijection of 64 bits that leaves no pattern: the finalizer of SplitMix64 (Steele, Lea, Flood 2014, fig. 16)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _constants(count: int, start: int) -> Grams:
    """Numbers `start` and on of one fixed pseudo-random sequence, (count,)."""
    return _mix(np.arange(start + 1, start + count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


_FACTORS = _constants(PERMUTATIONS, 0) | np.uint64(1)  # odd: multiplying modulo 2^64 is then a permutation
_OFFSETS = _constants(PERMUTATIONS, PERMUTATIONS)
_PLACES = _constants(GRAM, 2 * PERMUTATIONS) | np.uint64(1)
_BAND_FACTORS = _constants(PERMUTATIONS, 2 * PERMUTATIONS + GRAM) | np.uint64(1)


class _WordHashes(dict[str, int]):
    """Word -> 64-bit hash, remembered: most words of a text were seen before."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _WORDS_KEPT:
            self.clear()
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        value = self[word] = int.from_bytes(digest, "little")
        return value


_hash_of = _WordHashes()


def words(text: str) -> list[str]:
    """The words of a text: lower case, cut at white space; a character each where a script sets none."""
    lowered = text.lower()
    return lowered.split() if lowered.isascii() else _WORD.findall(lowered)


def grams(text: str) -> Grams:
    """Hashes of a text's word 5-grams; a text of fewer words is one gram, an empty one too."""
    found = words(text)
    hashes = np.fromiter(map(_hash_of.__getitem__, found), dtype=np.uint64, count=len(found))
    if len(hashes) < GRAM:
        return _mix((hashes * _PLACES[: len(hashes)]).sum(keepdims=True, dtype=np.uint64) + np.uint64(len(hashes)))
    count = len(hashes) - GRAM + 1
    total = hashes[:count] * _PLACES[0]
    for place in range(1, GRAM):
        total += hashes[place : place + count] * _PLACES[place]
    return _mix(total + np.uint64(GRAM))


def sign(of: Grams) -> Signature:
    """The signature of a text's 5-grams, (128,) uint32: upper halves of the smallest values."""
    lowest = np.full(PERMUTATIONS, np.iinfo(np.uint64).max, dtype=np.uint64)
    for start in range(0, len(of), _AT_ONCE):
        values = np.multiply.outer(_FACTORS, of[start : start + _AT_ONCE])  # (128, g)
        values += _OFFSETS[:, None]
        np.minimum(lowest, values.min(axis=1), out=lowest)
    return (lowest >> np.uint64(32)).astype(np.uint32)


def signature(text: str) -> Signature:
    """The signature of a text, (128,) uint32."""
    return sign(grams(text))


def jaccard(one: set[int], other: set[int]) -> float:
    """Size of the intersection over that of the union, 0 to 1; both sets empty: 1."""
    shared = len(one & other)
    united = len(one) + len(other) - shared
    return shared / united if united else 1.0


def bands(threshold: float) -> tuple[int, int]:
    """(bands, rows of a band) for a likeness: the longest bands that still find `RECALL` of the pairs just alike.

    A pair of likeness s agrees in at least one of b bands of r values with probability 1 - (1 - s^r)^b.
    """
    for rows in range(PERMUTATIONS // 4, 1, -1):
        count = PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** count >= RECALL:
            return count, rows
    return PERMUTATIONS, 1


def band_keys(signatures: Signature, threshold: float) -> NDArray[np.uint64]:
    """One 64-bit key per text and band, (n, bands); texts with an equal key in a column are candidates."""
    count, rows = bands(threshold)
    cut = signatures[:, : count * rows].reshape(-1, count, rows).astype(np.uint64)
    mixed = _mix(cut) * _BAND_FACTORS[:rows]  # (n, bands, rows)
    return _mix(mixed.sum(axis=2, dtype=np.uint64))
