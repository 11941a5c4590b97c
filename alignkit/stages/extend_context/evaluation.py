"""The proof of the stage: the long-context suite on the model as it was and as it is, at the same lengths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignkit.console import log
from alignkit.data.rows import UNTRAINED, Encoded, HeldOut
from alignkit.evaluation.long_context.material import Material, of_documents, read_material
from alignkit.evaluation.long_context.pictures import draw
from alignkit.evaluation.long_context.recipe import Suite
from alignkit.evaluation.long_context.regression import compared
from alignkit.evaluation.long_context.scores import LongScores
from alignkit.runs.digests import file_digest

SCORED = 1024
"""Tokens of a held-out row that are scored while training goes on: its last ones, which have the most before them."""


def lengths_of(suite: Suite, before: int, target: int) -> list[int]:
    """Lengths to measure at: those asked for; or half of the old window, and doubled from the old window on up to twice
    the new one, which is among them."""
    if suite.lengths is not None:
        return sorted(set(suite.lengths))
    found, length = {before // 2, before, target, 2 * target}, before
    while (length := 2 * length) < target:
        found.add(length)
    return sorted(found)


def material_of(suite: Suite, tokenizer: Any, held_out: Sequence[HeldOut]) -> Material:
    """What is read: the suite's own text and rows, else the held-out rows; texts by their length, longest first."""
    if suite.text is not None:
        return read_material(suite, tokenizer, digest_file=file_digest)
    texts = sorted((row.input_ids for row in held_out if row.prompt is None), key=len, reverse=True)
    short = [row for row in held_out if row.prompt is not None]
    found = of_documents(texts, tokenizer, short=short[: suite.short_rows])
    if suite.short is None:
        return found
    found.short[:] = read_material(suite, tokenizer, digest_file=file_digest).short
    return found


def told(before: LongScores | None, after: LongScores, window: int, directory: Path) -> LongScores:
    """``after`` with what stretching cost within the old window, said out loud; and both drawn into ``directory``."""
    if before is not None:
        known = set(after.warnings)
        after = compared(before, after, within=window)
        for sentence in after.warnings:
            if sentence not in known:
                log.warn(sentence)
    draw(before, after, directory)
    return after


def ends_of(rows: Sequence[Encoded]) -> list[Encoded]:
    """The rows with labels on their last `SCORED` tokens only: logits of a whole long row would fill the memory."""
    found = []
    for row in rows:
        hidden = max(0, len(row) - SCORED)
        found.append(Encoded(row.input_ids, [UNTRAINED] * hidden + row.labels[hidden:], row.where))
    return found
