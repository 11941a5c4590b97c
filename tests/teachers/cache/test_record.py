"""What is kept of a distribution: the likeliest tokens with the rest's mass, and draws without bias."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alignkit.teachers.cache.capture import captured, uniforms
from alignkit.teachers.cache.layout import Layout
from alignkit.teachers.cache.record import drawn, joined, top_k
from alignkit.training.targets import FullTargets, SampledTargets, TopKTargets
from alignkit.training.token_scores import Workspace


def log_probs(positions: int, vocabulary: int, seed: int = 0, scale: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(positions, vocabulary, generator=generator)).log_softmax(-1)


def test_top_k_are_the_likeliest_and_the_tail_is_the_rest() -> None:
    whole = log_probs(7, 40)
    record = top_k(whole, 5)
    p = np.exp(whole.double().numpy())
    for row in range(7):
        order = np.argsort(-p[row])[:5]
        assert record.ids[row].tolist() == order.tolist()
        assert record.log_probs[row] == pytest.approx(np.log(p[row, order]), abs=1e-6)
        assert record.log_tail is not None
        assert record.log_tail[row] == pytest.approx(np.log(np.delete(p[row], order).sum()), abs=1e-5)


def test_a_tail_that_a_difference_would_lose() -> None:
    z = torch.full((1, 30), -40.0)
    z[0, 3] = 0.0
    record = top_k(z.log_softmax(-1), 1)
    assert record.log_tail is not None
    assert record.log_tail[0] == pytest.approx(np.log(29) - 40, abs=1e-4)


def test_top_k_of_all_leaves_nothing() -> None:
    record = top_k(log_probs(2, 9), 9)
    assert record.log_tail is not None and np.isneginf(record.log_tail).all()
    assert np.exp(record.log_probs).sum(-1) == pytest.approx(np.ones(2), abs=1e-6)


def test_draws_are_unbiased_and_top_k_is_not() -> None:
    whole = log_probs(3, 25)
    p = np.exp(whole.double().numpy())
    rounds, n = 4000, 10
    rng = np.random.default_rng(1)
    mean = np.zeros_like(p)
    for _ in range(rounds):
        record = drawn(whole, rng.random((3, n)))
        assert record.draws is not None and (record.draws.sum(-1) == n).all()
        np.add.at(mean, (np.arange(3)[:, None], record.ids), record.draws / n / rounds)
    deviation = np.sqrt(p * (1 - p) / (n * rounds))
    assert (np.abs(mean - p) < 5 * deviation + 1e-9).all()
    kept = top_k(whole, n)
    biased = np.zeros_like(p)
    np.put_along_axis(biased, kept.ids, np.exp(kept.log_probs.astype(np.float64)), -1)
    biased /= biased.sum(-1, keepdims=True)
    assert (np.abs(biased - p) > 20 * deviation).any()


def test_draws_name_each_token_once_with_the_teachers_log_probability() -> None:
    whole = log_probs(6, 12, scale=0.5)
    chances = np.random.default_rng(0).random((6, 30))
    record = drawn(whole, chances)
    reached = np.exp(whole.double().numpy()).cumsum(-1)
    for row in range(6):
        found = np.searchsorted(reached[row] / reached[row, -1], chances[row], side="right")
        expected = dict(zip(*np.unique(found, return_counts=True), strict=True))
        assert record.draws is not None
        present = record.draws[row] > 0
        assert dict(zip(record.ids[row][present], record.draws[row][present], strict=True)) == expected
        assert record.log_probs[row][present] == pytest.approx(whole[row].numpy()[record.ids[row][present]])


def test_a_chance_at_the_very_end_draws_a_token_that_can_be() -> None:
    whole = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    assert drawn(whole, np.array([[np.nextafter(1.0, 0.0), 0.0]])).ids.tolist() == [[0]]


def test_chances_belong_to_the_row_and_not_to_the_batch() -> None:
    whole = log_probs(5, 30)
    layout = Layout(kind="sampled", entries=8, bits=16, vocabulary=30, temperature=1.0)
    digests, counts = [b"a" * 16, b"b" * 16], [2, 3]

    def of(part: slice, which: slice) -> list[list[list[int]]]:
        found = captured(FullTargets(whole[part]), layout, digests[which], counts[which], seed=3, space=Workspace())
        assert all(record.draws is not None for record in found)
        return [
            [ids[draws > 0].tolist() for ids, draws in zip(record.ids, record.draws, strict=True)]  # type: ignore[arg-type]
            for record in found
        ]

    both = of(slice(None), slice(None))
    assert [*of(slice(0, 2), slice(0, 1)), *of(slice(2, 5), slice(1, 2))] == both
    assert not np.array_equal(uniforms(3, digests[0], 2, 8), uniforms(4, digests[0], 2, 8))
    assert not np.array_equal(uniforms(3, digests[0], 2, 8), uniforms(3, digests[1], 2, 8))


def test_records_as_targets() -> None:
    whole = log_probs(4, 20)
    first = top_k(whole, 3).targets(2.0)
    assert isinstance(first, TopKTargets) and first.temperature == 2.0
    record = drawn(whole, np.random.default_rng(0).random((4, 6)))
    second = record.targets(1.0)
    assert isinstance(second, SampledTargets)
    assert second.weights.sum(-1) == pytest.approx(1.0)
    assert second.log_probs is not None and bool(torch.isfinite(second.log_probs).all())


def test_joined_records_keep_their_rows() -> None:
    whole = log_probs(6, 20, scale=0.3)
    rng = np.random.default_rng(0)
    parts = [drawn(whole[:2], rng.random((2, 4))), drawn(whole[2:], rng.random((4, 15)))]
    both = joined(parts)
    assert len(both) == 6 and both.draws is not None
    assert both.draws.sum(-1).tolist() == [4, 4, 15, 15, 15, 15]
    width = parts[0].ids.shape[1]
    assert both.ids[:2, :width].tolist() == parts[0].ids.tolist() and not both.draws[:2, width:].any()
