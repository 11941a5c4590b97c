"""Pieces of text and their tokens, remembered. A piece that is not known is noted, to be learned with others."""

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
    """Any piece as it stands. An unknown one is noted in ``wanted``, and is nothing until it is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: dict[str, None] = {}
        self.missed = 0
        """Grows whenever a piece was not known."""

    def __missing__(self, piece: str) -> bytes:
        self.wanted[piece] = None
        self.missed += 1
        return b""

    def learn(self, backend: Any, code: str) -> None:
        """Tokenise all that is wanted, in one call of the library."""
        backend.no_padding()
        backend.no_truncation()
        pieces = list(self.wanted)
        for piece, found in zip(pieces, backend.encode_batch_fast(pieces, add_special_tokens=False), strict=True):
            self[piece] = array(code, found.ids).tobytes()

    def settle(self) -> None:
        """Forget what was learned and is too long to come again."""
        for piece in self.wanted:
            if len(piece) > LONGEST:
                del self[piece]
        self.wanted.clear()


class Words(dict[str, bytes]):
    """The same by words that stand after a single space: the key leaves the space out, the tokens have it.

    ``first``: for the words that begin a text, with no space before them; what comes next is a space.
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
        if self.lines and "\n" in word:
            return self._lines(piece)
        missed = self.pieces.missed
        found = self.pieces[piece]
        if self.pieces.missed == missed and len(piece) <= LONGEST:
            self[word] = found
        return found

    def _lines(self, piece: str) -> bytes:
        """A piece that holds line breaks, cut after those that stand alone."""
        parts = piece.split("\n")
        if any(not part or part[0].isspace() or part[-1].isspace() for part in parts[1:-1]) or parts[-1][0].isspace():
            return self.pieces[piece]
        if not parts[0] or parts[0][-1].isspace():
            return self.pieces[piece]
        return b"".join([self.pieces[part + "\n"] for part in parts[:-1]]) + self.pieces[parts[-1]]
