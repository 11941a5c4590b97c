"""Causal attention of short documents on a CPU: torch's forward kernel, and a backward pass by plain matrix products.

torch's bf16 backward kernel on a CPU works in small blocks and costs about ten times its forward; for documents of up
to a few hundred tokens the whole probability matrix fits the caches, and five batched products are twice as fast.
Beyond that, torch's kernel wins and is used (``SHORT``).

n documents, h query heads, k key/value heads, l tokens, d head size; g = h / k query heads share a key.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SHORT = 192
"""Tokens up to which the products are faster."""


class _ShortCausal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        grouped = query.shape[1] != key.shape[1]
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=grouped)
        ctx.save_for_backward(query, key, value, out)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Dao et al. 2022 ("FlashAttention"), appendix B.2: P from Q and K, dS = P∘(dP - rowsum(dO∘O))."""
        query, key, value, out = ctx.saved_tensors
        n, h, length, d = query.shape
        k = key.shape[1]
        rows = (n * k, h // k * length, d)  # the queries that share a key, one below the other
        q, o, do = (x.reshape(rows) for x in (query, out, gradient))
        keys, values = (x.reshape(n * k, length, d) for x in (key, value))
        scores = torch.bmm(q, keys.transpose(1, 2)).float()  # (n·k, g·l, l)
        scores = scores.view(n * h, length, length).mul_(ctx.scale)
        future = torch.ones(length, length, dtype=torch.bool, device=q.device).triu_(1)
        p = scores.masked_fill_(future, -math.inf).softmax(-1).view(n * k, -1, length)  # fp32
        low = p.to(q.dtype)
        by_value = torch.bmm(low.transpose(1, 2), do)  # (n·k, l, d)
        by_p = torch.bmm(do, values.transpose(1, 2)).float()
        by_scores = by_p.sub_((do.float() * o.float()).sum(-1, keepdim=True)).mul_(p).mul_(ctx.scale).to(q.dtype)
        by_query = torch.bmm(by_scores, keys)
        by_key = torch.bmm(by_scores.transpose(1, 2), q)
        return by_query.view(query.shape), by_key.view(key.shape), by_value.view(value.shape), None


def fits(query: Tensor, dropout: float) -> bool:
    """Whether the products are the faster way for these documents (n, h, l, d)."""
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[2] <= SHORT and dropout == 0.0


def short_causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """Causal attention, (n, h, l, d) with keys and values (n, k, l, d) -> (n, h, l, d)."""
    result: Tensor = _ShortCausal.apply(query, key, value, query.shape[-1] ** -0.5 if scale is None else scale)
    return result
