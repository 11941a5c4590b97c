"""A row of tokens as packed numbers: what goes from the encoder to the store, without a Python integer per token."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from alignkit.data.rows import UNTRAINED, Encoded

NARROW, WIDE = "H", "I"
"""Type codes of token ids: uint16, and uint32."""


def token_code(tokenizer: object) -> str:
    """The narrowest type code that holds every id of a tokenizer."""
    return NARROW if len(tokenizer) <= 1 << 16 else WIDE  # type: ignore[arg-type]


@dataclass(slots=True)
class Tokens:
    """``ids``: T numbers of type ``code``, native byte order; ``mask``: T bytes, 1 where the token is trained;
    ``weights``: T float32, where some trained token has another loss weight than 1."""

    ids: bytes
    mask: bytes
    where: str
    code: str
    weights: bytes | None = None

    def __len__(self) -> int:
        return len(self.mask)

    @property
    def trained(self) -> int:
        """How many tokens carry loss."""
        return self.mask.count(1)

    def id_array(self) -> array[int]:
        """(T,) the ids as numbers."""
        return array(self.code, self.ids)

    def encoded(self) -> Encoded:
        """The same row as lists."""
        ids = self.id_array().tolist()
        labels = [token if trained else UNTRAINED for token, trained in zip(ids, self.mask, strict=True)]
        weights = None if self.weights is None else array("f", self.weights).tolist()
        return Encoded(ids, labels, self.where, weights)


def pack(row: Encoded, code: str) -> Tokens:
    """The same row as packed numbers."""
    mask = bytes([label != UNTRAINED for label in row.labels])
    weights = None if row.weights is None else array("f", row.weights).tobytes()
    return Tokens(array(code, row.input_ids).tobytes(), mask, row.where, code, weights)
