"""Attention of the last positions, in blocks where it needs a mask: exact, and no mask that grows with the square."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from alignkit.models import causal
from alignkit.models.causal import causal_attention

LENGTH = 4096


def made(queries: int, keys: int, *, documents: int = 2, heads: int = 4, shared: int = 2) -> tuple[Tensor, ...]:
    """Queries, keys and values in fp64, each with a gradient."""
    generator = torch.Generator().manual_seed(queries * 1000 + keys)
    shapes = ((heads, queries), (shared, keys), (shared, keys))
    return tuple(
        torch.randn(documents, *shape, 8, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes
    )


def dense(query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
    """The same by one softmax over all scores."""
    queries, keys = query.shape[2], key.shape[2]
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    scores = query @ key.transpose(2, 3) * 0.3
    for row in range(queries):
        place = keys - queries + row
        for at in range(keys):
            if at > place or (window is not None and at <= place - window):
                scores[:, :, row, at] = -torch.inf
    return (scores.softmax(-1) @ value).transpose(1, 2).flatten(0, 1)


@settings(max_examples=25, deadline=None)
@given(
    queries=st.integers(1, 23),
    before=st.integers(0, 14),
    window=st.one_of(st.none(), st.integers(1, 40)),
    block=st.integers(1, 9),
)
def test_blocks_give_the_outputs_and_gradients_of_one_softmax(
    queries: int, before: int, window: int | None, block: int
) -> None:
    tensors = made(queries, queries + before)
    with mock.patch.multiple(causal, BLOCK=block, SMALLEST=min(block, 3)):
        found = causal_attention(*tensors, dropout=0.0, scaling=0.3, window=window)
    expected = dense(*tensors, window=window)
    weights = torch.randn_like(expected)
    mine = torch.autograd.grad((found * weights).sum(), tensors)
    theirs = torch.autograd.grad((expected * weights).sum(), tensors)
    for one, other in zip((found, *mine), (expected, *theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("window", [64, 300])
def test_masks_of_a_long_row_are_few_and_small(window: int) -> None:
    tensors = made(LENGTH, LENGTH, documents=1, heads=1, shared=1)
    masks: dict[int, int] = {}
    plain = F.scaled_dot_product_attention

    def spy(*arguments: Any, attn_mask: Tensor, **kwargs: Any) -> Tensor:
        masks[attn_mask.untyped_storage().data_ptr()] = attn_mask.numel()
        return plain(*arguments, attn_mask=attn_mask, **kwargs)

    saved: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    kept = torch.autograd.graph.saved_tensors_hooks(note, lambda x: x)
    with mock.patch.object(F, "scaled_dot_product_attention", spy), kept:
        out = causal_attention(*tensors, dropout=0.0, scaling=0.3, window=window)
    block = max(window, causal.SMALLEST)
    assert max(masks.values()) <= block * (block + window)
    # Kept for the backward pass: queries, keys, values and outputs (4 of 8 numbers a token), and a mask per shape.
    assert sum(saved.values()) < 8 * (6 * LENGTH * 8 + 4 * block * (block + window))
    last = slice(LENGTH - 20, LENGTH)
    rest = [x[:, :, LENGTH - 20 - window :] for x in tensors]
    torch.testing.assert_close(out[last], dense(*rest, window=window)[-20:])
