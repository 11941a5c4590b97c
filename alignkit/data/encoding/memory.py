"""Pieces of text and their tokens, remembered."""

from __future__ import annotations

from array import array
from typing import Any

ENTRIES = 250_000
"""Pieces that are remembered, about 200 bytes each; when there are more, all are forgotten."""
LONGEST = 48
"""Characters of a piece that is kept: a longer one will hardly come again."""


class Uncut(Exception):
    """The white space of a text is not single spaces: it must be cut with care."""


class Pieces(dict[str, bytes]):
    """Any piece as it stands: its ids as packed numbers."""

    def __init__(self, backend: Any, code: str) -> None:
        super().__init__()
        self.encode = backend.encode_batch_fast
        self.code = code

    def __missing__(self, piece: str) -> bytes:
        tokens = self.tokens(piece)
        if len(piece) <= LONGEST:
            self[piece] = tokens
        return tokens

    def tokens(self, piece: str) -> bytes:
        """What the library says. One at a time is no slower than many together, and no row is gone through twice."""
        [found] = self.encode([piece], add_special_tokens=False)
        return array(self.code, found.ids).tobytes()


class Words(dict[str, bytes]):
    """The same by words that stand after a single space: the key leaves the space out, the tokens have it.

    ``first``: for the words that begin a text, with no space before them; what comes next is a space. ``lines``: a
    piece may be cut after line breaks that stand alone.
    """

    def __init__(self, pieces: Pieces, *, first: bool, lines: bool) -> None:
        super().__init__()
        self.pieces = pieces
        self.space = "" if first else " "
        self.lines = lines
        if first:
            self[""] = b""  # the text begins with the space itself

    def __missing__(self, word: str) -> bytes:
        if not word or word[-1].isspace() or (self.space and word[0].isspace()):
            raise Uncut
        piece = self.space + word
        tokens = self._lines(piece) if self.lines and "\n" in word else self.pieces.tokens(piece)
        if len(piece) <= LONGEST:
            self[word] = tokens
        return tokens

    def _lines(self, piece: str) -> bytes:
        """A piece that holds line breaks, cut after those that stand alone."""
        pieces = self.pieces
        parts = piece.split("\n")
        ends = [part[-1:] for part in parts[:-1]]
        starts = [part[:1] for part in parts[1:]]
        if all(sign and not sign.isspace() for sign in (*ends, *starts)):
            return b"".join([pieces[part + "\n"] for part in parts[:-1]]) + pieces[parts[-1]]
        return pieces.tokens(piece)
