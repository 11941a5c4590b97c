"""Tokens out of a memory of words: what the library would say, at a fraction of its time.

A byte-level BPE tokenises each pre-token by itself, and the usual pre-tokenizers begin one at a space between two
characters that are no white space. So a text may be cut there (and at special tokens, and where a span of loss begins
or ends), each piece be tokenised alone, and its ids be remembered: of an ordinary text nearly every piece was seen
before. A tokenizer qualifies by proof (see qualify.py), and answers are held against the library's own while running.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from alignkit.data.encoding.memory import ENTRIES, Pieces, Uncut, Words
from alignkit.data.encoding.packed import Tokens
from alignkit.data.encoding.qualify import cuts_after_newline, qualifies
from alignkit.data.encoding.rendered import Rendered
from alignkit.errors import RunError

CHECKED_FIRST, CHECKED_EVERY = 256, 64
"""The first so many rows, and one in so many after them, are compared with the library's own answer."""

_BEFORE_SPACE = re.compile(r"(?<=\S)(?= \S)")


class TokensDiffer(RunError):
    """The memory was wrong about a row after others had been handed out, which must be tokenised anew without it."""


class FastTokens:
    """Packs rendered rows with one tokenizer; `of` gives None for a tokenizer that does not qualify."""

    def __init__(self, tokenizer: Any, prefix: Sequence[int], code: str) -> None:
        self.backend = tokenizer.backend_tokenizer
        self.code = code
        self.width = array(code).itemsize
        self.prefix = array(code, prefix).tobytes()
        eos = tokenizer.eos_token_id
        self.eos = b"" if eos is None else array(code, [eos]).tobytes()
        added = self.backend.get_added_tokens_decoder()
        # Tokens that are looked for after normalising are left to the library, within their piece.
        self.fixed = {
            token.content: array(code, [index]).tobytes()
            for index, token in added.items()
            if token.content and not token.normalized
        }
        names = sorted(self.fixed, key=len, reverse=True)
        self.special = re.compile(f"({'|'.join(map(re.escape, names))})" if names else "((?!))")
        self.lines = cuts_after_newline(self.backend.pre_tokenizer)
        self.seen = 0
        self._forget()

    @classmethod
    def of(cls, tokenizer: Any, prefix: Sequence[int], code: str) -> FastTokens | None:
        """A memory for the tokenizer, or None where pieces could come out other than the whole."""
        return cls(tokenizer, prefix, code) if qualifies(tokenizer) else None

    def pack(self, rendered: Sequence[Rendered]) -> list[Tokens] | None:
        """One row of tokens for each text, in order.

        None: this memory is not to be asked again. The library said otherwise, or an eos is wanted and there is none.
        Raises TokensDiffer when the library says otherwise about a later row.
        """
        if not self.eos and any(row.eos for row in rendered):
            return None
        if len(self.pieces) + len(self.words) + len(self.first) > ENTRIES:
            self._forget()
        self.backend.no_padding()  # who used the tokenizer last may have left both on
        self.backend.no_truncation()
        rows = [self._row(row) for row in rendered]
        earlier = self.seen
        wrong = self._difference(rendered, rows)
        if wrong is None:
            return rows
        if not earlier:
            return None
        raise TokensDiffer(f"{wrong}: the tokenizer gives this row other tokens than its words have by themselves")

    def _forget(self) -> None:
        self.pieces = Pieces(self.backend, self.code)
        self.pieces.update(self.fixed)
        self.words = Words(self.pieces, first=False, lines=self.lines)
        self.first = Words(self.pieces, first=True, lines=self.lines)

    def _row(self, row: Rendered) -> Tokens:
        stretches = [(self.prefix, 0.0)] if row.plain and self.prefix else []
        text, at = row.text, 0
        if row.spans is None:
            stretches.append((self._tokens(text), 1.0))
        else:
            weights = row.span_weights or [1.0] * len(row.spans)
            for (start, end), weight in zip(row.spans, weights, strict=True):
                if at < start:
                    stretches.append((self._tokens(text[at:start]), 0.0))
                stretches.append((self._tokens(text[start:end]), weight))
                at = end
            if at < len(text):
                stretches.append((self._tokens(text[at:]), 0.0))
        if row.eos:
            stretches.append((self.eos, 1.0 if row.span_weights is None else row.span_weights[-1]))
        width = self.width
        ids = b"".join([tokens for tokens, _ in stretches])
        mask = b"".join([(b"\1" if weight else b"\0") * (len(tokens) // width) for tokens, weight in stretches])
        if mask[:1] == b"\1":  # nothing stands before the first token that could predict it
            mask = b"\0" + mask[1:]
        packed = Tokens(ids, mask, row.where, self.code)
        if row.span_weights is not None:
            each = array("f")
            for tokens, weight in stretches:
                each.extend([weight] * (len(tokens) // width))
            if each:
                each[0] = 0.0
            packed.weights = each.tobytes()
        return packed

    def _tokens(self, text: str) -> bytes:
        """The ids of a stretch of text that begins and ends where it may be cut."""
        found = []
        fixed, words, first, pieces = self.fixed, self.words, self.first, self.pieces
        for part in self.special.split(text):
            if part in fixed:
                found.append(fixed[part])
            elif part:
                split = part.split(" ")
                if len(split) == 1:
                    found.append(pieces[part])
                    continue
                try:
                    found.append(first[split[0]] + b"".join(map(words.__getitem__, split[1:])))
                except Uncut:
                    found.append(self._with_care(part))
        return b"".join(found)

    def _with_care(self, part: str) -> bytes:
        """A text with other white space than single spaces."""
        pieces = self.pieces
        return b"".join([pieces[piece] for piece in _BEFORE_SPACE.split(part)])

    def _difference(self, rendered: Sequence[Rendered], rows: Sequence[Tokens]) -> str | None:
        """Compare some of the rows with what the library makes of their stretches; the place of one that differs."""
        numbers = [
            number
            for number in range(len(rows))
            if self.seen + number < CHECKED_FIRST or (self.seen + number) % CHECKED_EVERY == 0
        ]
        self.seen += len(rows)
        texts: list[str] = []
        counts = []
        for number in numbers:
            row = rendered[number]
            edges = sorted({0, len(row.text), *(edge for span in row.spans or [] for edge in span)})
            texts += [row.text[start:end] for start, end in pairwise(edges)]
            counts.append(len(edges) - 1)
        encoded = iter(self.backend.encode_batch_fast(texts, add_special_tokens=False)) if texts else iter(())
        for number, count in zip(numbers, counts, strict=True):
            row = rendered[number]
            ids = array(self.code, [token for _ in range(count) for token in next(encoded).ids]).tobytes()
            expected = (self.prefix if row.plain else b"") + ids + (self.eos if row.eos else b"")
            if rows[number].ids != expected:
                return row.where
        return None
