"""Sliding-window perplexity: the same tokens of the same texts, with more and more of the text before them.

Press et al. 2022 ("Train Short, Test Long", appendix B) slide a window of L tokens by S and score the S new tokens at
each step, as Chen et al. 2023 ("Position Interpolation", section 3.2) and Peng et al. 2023 ("YaRN", section 4.3.1) do.
Here the steps are a few places of the text, and every length scores the tokens of the same places, so that a curve
falls where a model uses what lies further back, rises where it breaks, and never because other words were scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from alignkit.evaluation.long_context.reading import PIECE, OnRead, token_losses
from alignkit.evaluation.long_context.scores import AtLength, Bucket
from alignkit.evaluation.scoring import perplexity


@dataclass(frozen=True)
class Places:
    """Where in the texts windows end. ``ends``: (document, token after the last one) of each."""

    documents: Sequence[Sequence[int]]
    prefix: Sequence[int]
    """Tokens that begin every window (a BOS), which count as part of it."""
    lengths: list[int]
    """Windows that some text fills, ascending."""
    ends: list[tuple[int, int]]
    scored: int

    @property
    def tokens(self) -> int:
        """Tokens that will be read, as `curve_of` counts them."""
        return len(self.ends) * sum(length - 1 for length in self.lengths)

    def window(self, place: int, length: int) -> list[int]:
        """The ``length`` tokens that end at a place."""
        document, end = self.ends[place]
        return [*self.prefix, *self.documents[document][end - length + len(self.prefix) : end]]


def choose_places(
    documents: Sequence[Sequence[int]], prefix: Sequence[int], lengths: Sequence[int], *, windows: int, stride: int
) -> Places:
    """At most ``windows`` places, evenly over all texts that fill the longest window that any text fills.

    Their scored tokens do not overlap. No text fills even the shortest: there are none, and no lengths.
    """
    longest_text = max((len(document) for document in documents), default=0) + len(prefix)
    fitting = [length for length in lengths if length <= longest_text]
    if not fitting:
        return Places(documents, prefix, [], [], 0)
    scored = min(stride, fitting[0] // 2)
    need = fitting[-1] - len(prefix)
    ends = [
        (number, end) for number, document in enumerate(documents) for end in range(need, len(document) + 1, scored)
    ]
    count = min(windows, len(ends))
    # In the middle of as many equal parts: neither the first words nor the last of a text are its usual ones.
    chosen = [ends[int((place + 0.5) * len(ends) / count)] for place in range(count)]
    return Places(documents, prefix, fitting, chosen, scored)


def curve_of(model: Any, places: Places, on_read: OnRead = lambda count: None) -> tuple[list[AtLength], list[Bucket]]:
    """Perplexity at each length, and by position within the longest windows. The caller holds ``reading(model)``."""
    curve = []
    whole = torch.empty(0)
    for length in places.lengths:
        longest = length == places.lengths[-1]
        scored = length - max(1, len(places.prefix)) if longest else places.scored
        losses = _all_losses(model, places, length, scored, on_read)  # (places, scored)
        if longest:
            whole = losses
        curve.append(AtLength(length=length, **_mean(losses[:, -places.scored :])))
    return curve, _buckets(whole, places.lengths)


def _all_losses(model: Any, places: Places, length: int, scored: int, on_read: OnRead) -> Tensor:
    width = max(1, PIECE // length)
    parts = []
    for start in range(0, len(places.ends), width):
        numbers = range(start, min(start + width, len(places.ends)))
        ids = torch.tensor([places.window(number, length) for number in numbers])
        parts.append(token_losses(model, ids, scored, on_read).cpu())
    return torch.cat(parts)


def _buckets(losses: Tensor, lengths: Sequence[int]) -> list[Bucket]:
    """Losses (W, S) of the last S tokens of the longest windows, between the lengths that were measured."""
    if not losses.numel():
        return []
    first = lengths[-1] - losses.shape[1]
    edges = [first, *lengths]
    return [
        Bucket(low=low, high=high, **_mean(losses[:, low - first : high - first]))
        for low, high in pairwise(edges)
        if high > low
    ]


def _mean(losses: Tensor) -> dict[str, Any]:
    # fp64: a mean of many must not depend on how they were cut.
    loss = float(losses.double().mean())
    return {"loss": loss, "perplexity": perplexity(loss), "tokens": losses.numel()}
