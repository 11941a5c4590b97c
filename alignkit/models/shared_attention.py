"""Attention for prompts that several answers share: the prompt is read once, each answer sees it and itself.

A row lies as trunk, branch 1, branch 2 …; the positions of every branch go on where the trunk ended. A branch is the
end of the document trunk + branch, so its queries are the last ones of an ordinary causal document: windows, grouped
heads and every causal kernel are as they are, no (T, T) mask is built, and everything else in a layer sees each token
once. Exact: the gradient of the trunk's keys and values is the sum over its branches.

h query heads, k key/value heads, T tokens of the batch, d head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

import torch
from torch import Tensor

from alignkit.models.causal import causal_attention


def shared_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    branch_lengths: Sequence[Sequence[int]],
    *,
    dropout: float,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """query (h, T, d), key and value (k, T, d) -> (T, h, d).

    ``branch_lengths``: for each row the tokens of its trunk, of its first branch, its second, …; together T.
    """
    flat = [length for row in branch_lengths for length in row]
    # One split and not a slice each: the gradient is then put together once, not added up from mostly zeros.
    pieces = list(zip(*(x.split(flat, dim=1) for x in (query, key, value)), strict=True))
    found: list[Tensor] = []
    start = 0
    for row in branch_lengths:
        trunk, *branches = pieces[start : start + len(row)]
        start += len(row)
        found.append(_attend([x.unsqueeze(0) for x in trunk], dropout, scaling, window))
        # Neighbours of one length go through together: most answers of a rollout are as long as they may be.
        for length, group in groupby(zip(row[1:], branches, strict=True), key=itemgetter(0)):
            if not length:
                continue  # an empty branch has nothing to ask
            q, k, v = (torch.stack(x) for x in zip(*(branch for _, branch in group), strict=True))  # (n, ·, q, d)
            k, v = (
                torch.cat((head.expand(len(q), *head.shape), own), dim=2)
                for head, own in zip(trunk[1:], (k, v), strict=True)
            )
            found.append(_attend([q, k, v], dropout, scaling, window))
    return torch.cat(found)


def _attend(batch: Sequence[Tensor], dropout: float, scaling: float | None, window: int | None) -> Tensor:
    q, k, v = batch
    return causal_attention(q, k, v, dropout=dropout, scaling=scaling, window=window)
