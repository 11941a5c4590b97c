"""Causal attention whose queries are the last positions of what they look at: all of a document, or its end.

n documents of equal lengths, h query heads, k key/value heads, q queries, t keys (q at most t), d head size, w window.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from alignkit.models.short_attention import fits, short_causal_attention

BLOCK = 2048
"""Queries that share a mask, where one is needed: it is never larger than this times the keys that they see."""
SMALLEST = 256
"""Queries of a block at least, however small the window."""


def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, *, dropout: float, scaling: float | None, window: int | None
) -> Tensor:
    """query (n, h, q, d), key and value (n, k, t, d) -> (n·q, h, d).

    Query i stands at position t - q + i and sees the keys up to there, of those the last ``window``.
    """
    queries, keys = query.shape[2], key.shape[2]
    sliding = window is not None and keys > window
    if not sliding and torch.is_grad_enabled() and fits(query, key, dropout):
        return short_causal_attention(query, key, value, scaling).transpose(1, 2).flatten(0, 1)

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=q.shape[1] != k.shape[1],
        )

    if not sliding and queries == keys:
        return attend(query, key, value, None).transpose(1, 2).flatten(0, 1)
    if query.device.type == "cuda":
        # torch has no fast kernel there for a mask and grouped heads together, and would hold all scores.
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    mask: Tensor | None = None
    parts = []
    for start, end, first, last in _blocks(queries, keys, window if sliding else None):
        shape = end - start, last - first
        if mask is None or mask.shape != shape:  # the inner blocks of a long row share one, also for the backward pass
            mask = lower_right(*shape, window if sliding else None, query)
        parts.append(attend(query[:, :, start:end], key[:, :, first:last], value[:, :, first:last], mask))
    attended = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    return attended.transpose(1, 2).flatten(0, 1)


def _blocks(queries: int, keys: int, window: int | None) -> Iterator[tuple[int, int, int, int]]:
    """Queries ``start`` to ``end`` and the keys ``first`` to ``last`` that any of them sees, in order."""
    size = BLOCK if window is None else max(SMALLEST, min(BLOCK, window))
    before = keys - queries
    for start in range(0, queries, size):
        end = min(start + size, queries)
        first = 0 if window is None else max(0, before + start + 1 - window)
        yield start, end, first, before + end


def lower_right(queries: int, keys: int, window: int | None, like: Tensor) -> Tensor:
    """What is added to the scores of each query, (q, t): 0 for keys that it sees, else -inf; aligned at the last of
    both. A bool mask would be turned into this by torch at each call, and every call's kept for the backward pass."""
    at = torch.arange(keys, device=like.device)
    back = at[keys - queries :].unsqueeze(1) - at  # (q, t): how far the key lies behind the query
    hidden = back < 0 if window is None else (back < 0) | (back >= window)
    aligned = like.new_zeros(queries, -(-keys // 8) * 8)[:, :keys]  # CUDA's kernel copies masks with other strides
    return aligned.masked_fill_(hidden, -torch.inf)
