"""Two tokenizers side by side: whether they are one but for padding, and which tokens of both read the same."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignkit.errors import Fault, RequestError

SPECIAL = b"\xff"
"""Begins the bytes that stand for a special token: no UTF-8 text holds this byte, so no text is taken for one."""
END = SPECIAL + b"end"
"""Stands for the token that ends an answer, however a tokenizer writes it."""


@dataclass(frozen=True)
class Common:
    """How two vocabularies compare. `tokens`: ids below this mean the same on both sides; the rest of either table is
    padding. `difference`: None, or why they are not one vocabulary (then `tokens` is how far they agree)."""

    tokens: int
    difference: str | None


def in_common(student: Any, teacher: Any) -> Common:
    """Compare two tokenizers token by token: every id must name the same text on both sides.

    An id that only one of them knows is padding if it is that side's pad token; anything else is a token that the
    other side cannot read, and the vocabularies differ.
    """
    ours, theirs = _by_id(student), _by_id(teacher)
    for token in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(token), theirs.get(token)
        if mine == other:
            continue
        lone = teacher.pad_token_id if mine is None else student.pad_token_id if other is None else None
        if token == lone:
            continue
        return Common(token, f"token {token} is {_quoted(mine)} for the student and {_quoted(other)} for the teacher")
    shared = ours.keys() & theirs.keys()
    return Common(max(shared, default=-1) + 1, None)


def token_bytes(tokenizer: Any, *, ends: Collection[int] = (), where: str = "distill.tokenizers") -> dict[int, bytes]:
    """What every token adds to a text, as bytes: an entry may be a part of a character.

    Special tokens stand for themselves (behind ``SPECIAL``); those of `ends` (none given: the end-of-sequence token)
    all for ``END``. Raises RequestError where the tokenizer does not tell (a tokenizer without a fast version, or one
    whose decoder is unknown).
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    kinds = set() if backend is None else _decoders(json.loads(backend.to_str()).get("decoder"))
    if "ByteLevel" in kinds:
        table = {symbol: byte for byte, symbol in _byte_symbols().items()}

        def read(text: str) -> bytes:
            return b"".join(bytes([table[s]]) if s in table else s.encode() for s in text)
    elif "Metaspace" in kinds or "ByteFallback" in kinds or "▁" in kinds:

        def read(text: str) -> bytes:
            one = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", text)
            return bytes([int(one[1], 16)]) if one else text.replace("▁", " ").encode()
    else:
        raise RequestError(
            Fault(
                where=where,
                what=f"{type(tokenizer).__name__} does not tell which bytes its tokens stand for",
                instead="Write distill.tokenizers=uld, which compares without reading tokens.",
            )
        )
    stops = set(ends) or {tokenizer.eos_token_id}
    special = set(tokenizer.all_special_ids) | {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    added = {i: t.content for i, t in tokenizer.added_tokens_decoder.items()}
    found = {}
    for token, text in _by_id(tokenizer).items():
        if token in stops:
            found[token] = END
        elif token in special:
            found[token] = SPECIAL + text.encode()
        else:
            found[token] = added[token].encode() if token in added else read(text)
    return found


def matched_tokens(student: dict[int, bytes], teacher: dict[int, bytes]) -> tuple[Tensor, Tensor]:
    """Ids (M,) of the student and (M,) of the teacher whose bytes are the same, pair by pair.

    Where one side has several tokens of the same bytes, its lowest id stands for them; tokens without bytes match none.
    """
    ours, theirs = _lowest(student), _lowest(teacher)
    pairs = sorted((ours[text], theirs[text]) for text in ours.keys() & theirs.keys() if text)
    both = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)
    return both[:, 0].contiguous(), both[:, 1].contiguous()


def _lowest(table: dict[int, bytes]) -> dict[bytes, int]:
    return {text: token for token, text in sorted(table.items(), reverse=True)}


def _by_id(tokenizer: Any) -> dict[int, str]:
    return {token: text for text, token in tokenizer.get_vocab().items()}


def _decoders(decoder: Any) -> set[str]:
    """Kinds of decoder in a tokenizer's description, and what they replace."""
    if decoder is None:
        return set()
    found = {decoder["type"]}
    if decoder["type"] == "Replace":
        found.add(decoder["pattern"].get("String", ""))
    for inner in decoder.get("decoders", []):
        found |= _decoders(inner)
    return found


def _byte_symbols() -> dict[int, str]:
    """Byte to the character that byte-level tokenizers write for it (Radford et al. 2019, section 2.2): printable bytes
    stand for themselves, the others for the characters from 256 on, in order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def _quoted(text: str | None) -> str:
    return "nothing" if text is None else repr(text)
