"""What became of the rows of one source, in counts that add up over processes and go into a manifest."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alignkit.config.sections import Data
from alignkit.errors import Fault, RequestError

NAMED = 3
"""Rows over the length that are named."""


@dataclass(slots=True)
class Tally:
    """Counts of one source. Rows of the source are read, documents come of them, rows of tokens of these."""

    read: int = 0
    """Rows of the source, the skipped ones included."""
    skipped: int = 0
    """Rows that could not be used and were left out (data.on_error=skip); skipped.jsonl holds each."""
    documents: int = 0
    encoded: int = 0
    """Rows of tokens before any was dropped, cut or split."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Rows of tokens that are not kept, by reason."""
    long_count: int = 0
    """Rows over max_length that were dropped or truncated."""
    long_rows: list[str] = field(default_factory=list)
    """Where the first of them stand."""
    truncated: int = 0
    split: int = 0
    """Texts that were cut into pieces."""
    answers: int = 0
    """Answers of comparisons, before any was dropped."""
    answers_cut: int = 0
    """Those of them that lost their end to max_length."""
    notes: Counter[str] = field(default_factory=Counter)
    """Sentences about templates and conversions, and how many rows each is true of."""

    def too_long(self, where: str) -> None:
        """Count a row that is dropped or truncated for its length."""
        self.long_count += 1
        if len(self.long_rows) < NAMED:
            self.long_rows.append(where)

    def add(self, other: Tally) -> None:
        """The counts of rows that come after ours."""
        self.read += other.read
        self.skipped += other.skipped
        self.documents += other.documents
        self.encoded += other.encoded
        self.dropped += other.dropped
        self.long_count += other.long_count
        self.long_rows = (self.long_rows + other.long_rows)[:NAMED]
        self.truncated += other.truncated
        self.split += other.split
        self.answers += other.answers
        self.answers_cut += other.answers_cut
        self.notes += other.notes

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            name: dict(value) if isinstance(value, Counter) else list(value) if isinstance(value, list) else value
            for name in self.__slots__
            for value in (getattr(self, name),)
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Tally:
        """The inverse of `as_dict`."""
        given: dict[str, Any] = {
            name: Counter(value) if isinstance(value, dict) else value for name, value in values.items()
        }
        return cls(**given)

    def said(self) -> list[str]:
        """The notes as sentences for a person."""
        return counted_notes(self.notes)


def counted_notes(notes: Counter[str]) -> list[str]:
    """Notes with how many rows each is true of; one that begins with what it counts is put in the singular for one."""
    return [f"{count:,} {_of_one(note) if count == 1 else note}" for note, count in notes.items()]


def _of_one(note: str) -> str:
    counted, _, rest = note.partition(" ")
    return f"{counted.removesuffix('s')} {rest}" if rest.startswith(("whose", "marked")) else note


def refuse_if_too_long(tally: Tally, lengths: np.ndarray, section: Data) -> None:
    """Raise RequestError when overlength=error, or when more rows than data.overlength_limit are too long.

    ``lengths``: (N,) tokens of every row before anything was cut.
    """
    count, rows = tally.long_count, len(lengths)
    if not count or (section.overlength != "error" and count <= section.overlength_limit * rows):
        return
    enough = int(np.partition(lengths, min(rows - 1, int(0.99 * rows)))[min(rows - 1, int(0.99 * rows))])
    named = ", ".join(tally.long_rows) + (" …" if count > len(tally.long_rows) else "")
    share = f"{count:,} of {rows:,} rows ({count / rows:.0%})"
    limit = "" if section.overlength == "error" else f", and data.overlength_limit is {section.overlength_limit}"
    raise RequestError(
        Fault(
            where="data.max_length",
            what=f"{share} have more than {section.max_length} tokens{limit} "
            f"(the longest has {int(lengths.max()):,}; {named})",
            instead="; ".join([f"data.max_length={enough} would take 99% of the rows", *_other_ways(tally, section)])
            + ".",
        )
    )


def _other_ways(tally: Tally, section: Data) -> list[str]:
    """What else may be done about rows that are too long than to read more of them."""
    rule = section.overlength
    ways = ["or write data.overlength=drop" if rule == "error" else "or raise data.overlength_limit"]
    if tally.answers and rule != "truncate":
        ways.append("or write data.overlength=truncate, which cuts prompts or answers (dpo.truncation)")
    elif not tally.answers and rule != "split":
        ways.append("or for raw text write data.overlength=split, which cuts it into pieces")
    return ways
