"""Scores made by hand."""

from __future__ import annotations

import math
from typing import Any

from alignkit.evaluation.long_context.scores import AtLength, Cell, LongScores
from alignkit.evaluation.scores import Scores


def short_scores(perplexity: float, correct: int) -> Scores:
    loss = math.log(perplexity)
    return Scores(rows=50, labelled_tokens=500, loss=loss, perplexity=perplexity, graded=50, correct=correct)


def long_scores(perplexities: dict[int, float], *, window: int, share: float = 1.0, **more: Any) -> LongScores:
    """Perplexity by length, and the same share of passkeys at every depth and length."""
    curve = [
        AtLength(length=length, loss=math.log(value), perplexity=value, tokens=100)
        for length, value in perplexities.items()
    ]
    cells = [
        Cell(length=length, depth=depth, asked=10, found=10 * share) for length in perplexities for depth in (0.0, 1.0)
    ]
    return LongScores(window=window, lengths=list(perplexities), perplexity=curve, passkey=cells, **more)
