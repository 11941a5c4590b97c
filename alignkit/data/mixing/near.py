"""Rows that say nearly the same: candidates by MinHash, decided by the true likeness of the texts.

What a text is here: (what is asked, what is answered), see `comparable`. Two rows are nearly the same when the whole
and the answers alone both reach the threshold: five questions about one long document are five rows, and so are
two answers to one question.

What one row in twenty shares (instructions, examples in a prompt) says nothing about a row; its 5-grams are left out of
the comparison, since thousands of short inputs under one long instruction are not copies of each other.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from alignkit.data.mixing.hashes import NONE, Indices
from alignkit.data.mixing.minhash import PERMUTATIONS, Grams, Signature, band_keys, grams, jaccard, sign
from alignkit.data.rows import (
    Completion,
    Conversation,
    Document,
    Feedback,
    Labelled,
    Message,
    Preference,
    Prompt,
    Ranking,
    Said,
    Scored,
    Text,
)

Comparable: TypeAlias = "str | tuple[str, str]"
"""A text, or (what is asked, what is answered)."""

SAMPLE = 1000
"""Rows in which shared 5-grams are looked for."""
SHARED = 0.05
"""Share of the sampled rows from which a 5-gram is an instruction's and not a row's."""
FEWEST = 20
"""Sampled rows that share a 5-gram at least: a handful of copies is no instruction."""
MATES = 16
"""Rows of one bucket that a row is compared with: bounds the time where thousands fall together by chance."""
_REMEMBERED = 4096
_CHUNK = 1024


def near(texts: Sequence[Comparable] | Signature, threshold: float) -> Indices:
    """For each text the earlier one that it nearly equals, itself where there is none, (n,) int64.

    The first of a group stays, and each of the others points to a text that stays. Deterministic.

    Args:
        texts: read several times, by index; it may make them on demand. Signatures (n, 128) in their place are
            compared by the share of equal values, which is off by 0.04 (one standard deviation) at worst.
        threshold: Jaccard similarity from which two texts are nearly the same. Of pairs that just reach it 98% are
            found, of more alike ones nearly all.
    """
    return _Search(texts, threshold).link(fixed=0)


def near_among(texts: Sequence[Comparable], others: Sequence[Comparable], threshold: float) -> Indices:
    """For each text the one of `others` that it nearly equals, or -1, (n,) int64. Arguments as `near`."""
    linked = _Search(_Joined(others, texts), threshold).link(fixed=len(others))[len(others) :]
    return np.where(linked < len(others), linked, NONE).astype(np.int64, copy=False)


def comparable(document: Document) -> tuple[str, str]:
    """What a document asks and what it answers; system prompts and tools, which many rows share, are left out."""
    match document:
        case Conversation():
            asked, answered = _turns(document.messages)
            return asked, answered
        case Completion():
            return document.prompt, document.completion
        case Text():
            return "", document.text
        case Preference():
            return _flat(document.prompt), f"{_flat(document.chosen)}\n{_flat(document.rejected)}"
        case Feedback():
            return _flat(document.prompt), f"{_flat(document.completion)}\n{document.label}"
        case Scored():
            return _flat(document.prompt), _flat(document.completion)
        case Ranking():
            return _flat(document.prompt), "\n".join(map(_flat, document.answers))
        case Prompt():
            return _flat(document.prompt), document.answer or ""
        case Labelled():
            return document.text, document.label


def _turns(messages: list[Message]) -> tuple[str, str]:
    """(what others say, what the assistant says), turn after turn."""
    asked = [_content(message) for message in messages if message["role"] not in ("system", "developer", "assistant")]
    answered = [_content(message) for message in messages if message["role"] == "assistant"]
    return "\n".join(asked), "\n".join(answered)


def _flat(said: Said) -> str:
    return said if isinstance(said, str) else "\n".join(_content(turn) for turn in said if turn["role"] != "system")


def _content(message: Message) -> str:
    """Everything that a message says, a tool call as JSON."""
    parts = (message.get("reasoning_content"), message.get("content"), message.get("tool_calls"))
    return "\n".join(part if isinstance(part, str) else json.dumps(part, sort_keys=True) for part in parts if part)


class _Joined(Sequence[Comparable]):
    """Two sequences one after the other, without a copy."""

    def __init__(self, first: Sequence[Comparable], second: Sequence[Comparable]) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, index: int) -> Comparable:  # type: ignore[override]
        return self.first[index] if index < len(self.first) else self.second[index - len(self.first)]


class _Search:
    """One search for near duplicates. Memory: 8 bytes per band and text (144 at a threshold of 0.8)."""

    def __init__(self, texts: Sequence[Comparable] | Signature, threshold: float) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"a threshold is above 0 and at most 1, not {threshold}")
        self.texts, self.threshold = texts, threshold
        self.shared = np.empty(0, dtype=np.uint64) if isinstance(texts, np.ndarray) else _shared_grams(texts)
        self.remembered: OrderedDict[int, tuple[set[int], set[int]]] = OrderedDict()

    def link(self, *, fixed: int) -> Indices:
        """For each text the one that it nearly equals, itself where there is none.

        ``fixed``: how many texts at the beginning stay whatever they are; where there are any, the others are compared
        with these alone.
        """
        keys = self._keys()
        linked = np.arange(len(keys), dtype=np.int64)
        buckets: list[dict[int, list[int]]] = [{} for _ in range(keys.shape[1])]
        for row in np.flatnonzero(_in_company(keys)).tolist():
            own = [bucket.setdefault(key, []) for bucket, key in zip(buckets, keys[row].tolist(), strict=True)]
            if row >= fixed:
                mates = sorted({mate for bucket in own for mate in bucket})
                twin = next((mate for mate in mates if self._alike(mate, row)), None)
                if twin is not None:
                    linked[row] = twin
                    continue
            if row < fixed or not fixed:
                for bucket in own:
                    if len(bucket) < MATES:
                        bucket.append(row)
        return linked

    def _keys(self) -> NDArray[np.uint64]:
        """Band keys of all texts, (n, bands)."""
        chunks = [np.empty((0, 1), dtype=np.uint64)] if not len(self.texts) else []
        for start in range(0, len(self.texts), _CHUNK):
            if isinstance(self.texts, np.ndarray):
                signatures = self.texts[start : start + _CHUNK]
            else:
                rows = range(start, min(start + _CHUNK, len(self.texts)))
                signatures = np.empty((len(rows), PERMUTATIONS), dtype=np.uint32)
                for at, row in enumerate(rows):
                    signatures[at] = sign(self._own(_whole(self.texts[row])))
            chunks.append(band_keys(signatures, self.threshold))
        return np.concatenate(chunks)

    def _own(self, text: str) -> Grams:
        """The 5-grams of a text that are not shared by many; all of them where nothing else is left."""
        found = grams(text)
        if not len(self.shared):
            return found
        at = np.minimum(np.searchsorted(self.shared, found), len(self.shared) - 1)
        own = found[self.shared[at] != found]
        return own if len(own) else found

    def _alike(self, one: int, other: int) -> bool:
        if isinstance(self.texts, np.ndarray):
            return bool((self.texts[one] == self.texts[other]).mean() >= self.threshold)
        return all(jaccard(a, b) >= self.threshold for a, b in zip(self._sets(one), self._sets(other), strict=True))

    def _sets(self, row: int) -> tuple[set[int], set[int]]:
        """5-grams of the whole text and of its answer."""
        sets = self.remembered.pop(row, None)
        if sets is None:
            text = self.texts[row]
            whole = set(self._own(_whole(text)).tolist())
            sets = whole, whole if isinstance(text, str) or not text[0] else set(self._own(text[1]).tolist())
            if len(self.remembered) >= _REMEMBERED:
                self.remembered.popitem(last=False)
        self.remembered[row] = sets
        return sets


def _whole(text: Comparable) -> str:
    return text if isinstance(text, str) else "\n".join(text)


def _shared_grams(texts: Sequence[Comparable]) -> Grams:
    """5-grams that stand in many of the texts, in ascending order; told from a sample of them."""
    if len(texts) < 5 * FEWEST:  # copies of one text could be most of the rows
        return np.empty(0, dtype=np.uint64)
    # Drawn, not spread evenly: rows may come in turns (instruction 1, 2, 3, 1, 2, 3 …).
    drawn = np.random.default_rng(0).choice(len(texts), min(SAMPLE, len(texts)), replace=False)
    sample = np.sort(drawn).tolist()
    found = np.concatenate([np.unique(grams(_whole(texts[row]))) for row in sample])
    values, counts = np.unique(found, return_counts=True)
    return values[counts >= max(FEWEST, SHARED * len(sample))]


def _in_company(keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which rows share a bucket with another row in some band, (n,)."""
    found = np.zeros(len(keys), dtype=np.bool_)
    for band in range(keys.shape[1]):
        order = np.argsort(keys[:, band], kind="stable")
        ordered = keys[order, band]
        same = ordered[1:] == ordered[:-1]
        found[order[1:][same]] = True
        found[order[:-1][same]] = True
    return found
