"""What a suite measures on, read before a weight is: long documents, and rows that a short context is enough for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alignkit.config.sections import Data
from alignkit.console import log
from alignkit.data.encoding.tokenizing import plain_prefix
from alignkit.data.fingerprint import plain_digest
from alignkit.data.pool import Digest
from alignkit.data.prepare import prepare_held_out
from alignkit.data.rows import HeldOut
from alignkit.data.splitting import every_row
from alignkit.errors import Fault, RequestError
from alignkit.evaluation.long_context.recipe import Suite

MOST_DOCUMENTS = 64
"""Documents that windows are spread over: the longest ones."""


@dataclass(frozen=True)
class Material:
    """Token ids of long documents, without what the tokenizer puts before a text, and held-out rows."""

    documents: list[list[int]] = field(default_factory=list)
    prefix: list[int] = field(default_factory=list)
    """What the tokenizer puts before a text: a BOS, or nothing."""
    short: list[HeldOut] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """What was asked for and cannot be measured with this model, in words."""

    @property
    def longest(self) -> int:
        """Tokens of the longest window that a document fills."""
        return max((len(document) + len(self.prefix) for document in self.documents), default=0)


def read_material(
    suite: Suite, tokenizer: Any, *, digest_file: Digest = plain_digest, where: str = "suite"
) -> Material:
    """The suite's text and short rows as tokens. Raises RequestError for data that cannot be read, by the keys of the
    section at ``where``."""
    prefix = plain_prefix(tokenizer)
    documents: list[list[int]] = []
    short: list[HeldOut] = []
    left_out: list[str] = []
    sections = suite.sections()
    if "text" in sections:
        documents = _documents(sections["text"], tokenizer, prefix, digest_file, f"{where}.text")
    if "short" in sections:
        try:
            with_rows = prepare_held_out(sections["short"], tokenizer, digest_file=digest_file, limit=suite.short_rows)
            short = with_rows.held_out[: suite.short_rows]
        except RequestError as error:
            if getattr(tokenizer, "chat_template", None):
                raise _renamed(error, f"{where}.short") from error
            left_out.append(f"the rows of {sections['short'].name}: the model has no chat template")
    for sentence in left_out:
        log.say(f"left out: {sentence}")
    return Material(documents, prefix, short, left_out)


def of_documents(documents: Iterable[Sequence[int]], tokenizer: Any, short: Sequence[HeldOut] = ()) -> Material:
    """Material from rows that are tokens already (of raw text, whole), such as a stage's held-out documents."""
    prefix = plain_prefix(tokenizer)
    bare = [_without(list(ids), prefix) for ids in documents]
    return Material(sorted(bare, key=len, reverse=True)[:MOST_DOCUMENTS], prefix, list(short))


def _documents(section: Data, tokenizer: Any, prefix: list[int], digest_file: Digest, where: str) -> list[list[int]]:
    """The longest documents of a source, the longest first."""
    try:
        pool, _, numbers = every_row(section, tokenizer, wants="demonstration", digest_file=digest_file)
    except RequestError as error:
        raise _renamed(error, where) from error
    view = pool.rows(numbers[: section.rows])
    if not len(view):
        raise RequestError(Fault(where=where, what=f"{section.name} holds no document"))
    lengths = np.asarray(view.lengths)
    # A stable order: of documents that are as long as each other, those with the smallest hashes.
    longest = np.argsort(-lengths.astype(np.int64), kind="stable")[:MOST_DOCUMENTS]
    documents = "1 document" if len(view) == 1 else f"{len(view):,} documents"
    log.say(f"read {documents} of {section.name}; the longest has {int(lengths.max()):,} tokens")
    return [_without(list(view[int(number)].input_ids), prefix) for number in longest]


def _without(ids: list[int], prefix: list[int]) -> list[int]:
    return ids[len(prefix) :] if prefix and ids[: len(prefix)] == prefix else ids


def _renamed(error: RequestError, key: str) -> RequestError:
    """The faults of a data section that the person knows by another name."""
    return RequestError(
        [
            Fault(
                where=key if fault.where in ("data", "data.name") else fault.where,
                what=fault.what,
                instead=fault.instead,
            )
            for fault in error.faults
        ]
    )
