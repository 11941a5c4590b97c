"""The growing cache holds what the stock one holds, through every mixture of appending, cropping and dropping rows."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from([1, 1, 1, 5, 63, 64, 65])),
        st.tuples(st.just("crop"), st.integers(0, 3)),
        st.tuples(st.just("drop"), st.integers(0, 3)),
        st.tuples(st.just("turn"), st.just(0)),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(0, 2**31))
def test_equals_the_stock_layer(steps: list[tuple[str, int]], seed: int) -> None:
    import torch
    from transformers import DynamicCache

    from alignkit.evaluation.cache import GrowingLayer, grow_in_place

    torch.manual_seed(seed)
    stock, ours = DynamicCache(), DynamicCache()

    def append(rows: int, tokens: int) -> None:
        keys, values = torch.rand(2, rows, 2, tokens, 4)
        expected, found = (cache.update(keys, values, 0) for cache in (stock, ours))
        assert torch.equal(expected[0], found[0]) and torch.equal(expected[1], found[1])

    rows = 5
    append(rows, 7)
    grow_in_place(ours)
    assert isinstance(ours.layers[0], GrowingLayer)
    for step, number in steps:
        if step == "append":
            append(rows, number)
        elif step == "crop" and number < stock.get_seq_length():
            stock.crop(-number)
            ours.crop(-number)
        elif step == "drop" and rows > 1:
            gone = number % rows
            kept = torch.tensor([row for row in range(rows) if row != gone])
            rows -= 1
            stock.reorder_cache(kept)
            ours.reorder_cache(kept)
        elif step == "turn":  # as many rows as before, in another order
            for cache in (stock, ours):
                cache.reorder_cache(torch.arange(rows).flip(0))
        assert torch.equal(stock.layers[0].keys, ours.layers[0].keys)
        assert torch.equal(stock.layers[0].values, ours.layers[0].values)
        assert stock.get_seq_length() == ours.get_seq_length()
