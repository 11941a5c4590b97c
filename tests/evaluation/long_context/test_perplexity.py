"""The same tokens at every length; perplexity against a plain loop over windows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.evaluation.inference import reading
from alignkit.evaluation.long_context.perplexity import choose_places, curve_of
from tests.evaluation.long_context.test_reading import plain_losses, texts
from tests.tiny import build_model

LENGTHS = st.lists(st.integers(16, 90), min_size=1, max_size=4, unique=True).map(sorted)


@given(
    sizes=st.lists(st.integers(0, 200), min_size=1, max_size=5),
    lengths=LENGTHS,
    prefix=st.integers(0, 2),
    windows=st.integers(1, 9),
    stride=st.integers(1, 40),
)
def test_places(sizes: list[int], lengths: list[int], prefix: int, windows: int, stride: int) -> None:
    documents = [[1000 * number + at for at in range(size)] for number, size in enumerate(sizes)]
    places = choose_places(documents, [-1] * prefix, lengths, windows=windows, stride=stride)
    assert places.lengths == [length for length in lengths if length <= max(sizes) + prefix]
    if not places.lengths:
        assert not places.ends and not places.tokens
        return
    assert 1 <= len(places.ends) <= windows
    seen: set[int] = set()
    for place in range(len(places.ends)):
        found = [places.window(place, length) for length in places.lengths]
        assert [len(window) for window in found] == places.lengths
        assert all(window[:prefix] == [-1] * prefix for window in found)
        scored = {tuple(window[-places.scored :]) for window in found}
        assert len(scored) == 1  # whatever the length, the same tokens
        own = set(scored.pop())
        assert len(own) == min(stride, places.lengths[0] // 2) and -1 not in own
        assert not own & seen  # and none of them twice
        seen |= own
        for window in found:  # one stretch of one document
            body = window[prefix:]
            assert body == list(range(body[0], body[0] + len(body)))


def test_places_are_spread_over_the_text() -> None:
    places = choose_places([list(range(10_000))], [], [100], windows=4, stride=50)
    assert np.diff([end for _, end in places.ends]).tolist() == pytest.approx([2475] * 3, abs=50)


@settings(max_examples=5, deadline=None)
@given(prefix=st.integers(0, 1))
def test_the_curve_against_a_loop_over_windows(prefix: int) -> None:
    model = build_model().eval()
    document = texts(1, 400)[0].tolist()
    places = choose_places([document], [1] * prefix, [16, 50, 120, 999], windows=3, stride=30)
    count: list[int] = []
    with reading(model):
        curve, buckets = curve_of(model, places, count.append)
    assert [one.length for one in curve] == [16, 50, 120] and sum(count) == places.tokens
    for one in curve:
        each = [plain_losses(model, _tensor(places.window(place, one.length)))[0, -8:] for place in range(3)]
        assert one.loss == pytest.approx(float(np.mean(each)), abs=1e-5)
        assert one.perplexity == pytest.approx(math.exp(one.loss)) and one.tokens == 24
    whole = np.stack([plain_losses(model, _tensor(places.window(place, 120)))[0] for place in range(3)])  # (3, 119)
    assert [(one.low, one.high) for one in buckets] == [(1, 16), (16, 50), (50, 120)]
    for one in buckets:  # position p is predicted by position p - 1
        assert one.loss == pytest.approx(float(whole[:, one.low - 1 : one.high - 1].mean()), abs=1e-5)
        assert one.tokens == 3 * (one.high - one.low)


def _tensor(window: list[int]):  # type: ignore[no-untyped-def]
    import torch

    return torch.tensor([window])
