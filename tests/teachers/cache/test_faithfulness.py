"""What is reported of a cache is what an independent sum over the vocabulary gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alignkit.teachers.cache.coding import STEP_16
from alignkit.teachers.cache.faithfulness import Comparison, spread_out
from alignkit.teachers.cache.layout import Layout
from alignkit.teachers.cache.record import drawn, top_k

V, N = 30, 40


def whole() -> torch.Tensor:
    return (2 * torch.randn(N, V, generator=torch.Generator().manual_seed(0))).log_softmax(-1)


def test_top_k_against_the_whole() -> None:
    log_p = whole()
    p = np.exp(log_p.double().numpy())
    layout = Layout(kind="top-k", entries=6, bits=32, vocabulary=V, temperature=1.0)
    comparison = Comparison(layout)
    record = top_k(log_p, 6)
    for start in range(0, N, 7):
        comparison.add(record.take(slice(start, start + 7)), log_p[start : start + 7].double().numpy())
    found = comparison.result()
    kl = []
    for row in p:
        order = np.argsort(-row)
        q = row.copy()
        q[order[6:]] = row[order[6:]].sum() / (V - 6)
        kl.append((row * np.log(row / q)).sum())
    assert found.kl == pytest.approx(np.mean(kl), abs=1e-6)
    assert found.mass == pytest.approx(np.mean([np.sort(row)[-6:].sum() for row in p]), abs=1e-6)
    assert found.positions == N and found.entries == 6 and found.error == pytest.approx(0, abs=1e-6)
    assert found.bytes_per_position == layout.most_bytes


def test_everything_kept_is_without_divergence_and_rounding_costs_little() -> None:
    log_p = whole()
    for bits, kl, error in ((32, 1e-9, 1e-6), (16, 1e-6, 1.01 * STEP_16), (8, 1e-3, 0.05)):
        comparison = Comparison(Layout(kind="top-k", entries=V, bits=bits, vocabulary=V, temperature=1.0))  # type: ignore[arg-type]
        comparison.add(top_k(log_p, V), log_p.double().numpy())
        found = comparison.result()
        assert found.kl is not None
        assert abs(found.kl) <= kl and found.error <= error
        assert found.mass == pytest.approx(1.0)


def test_more_draws_are_less_noise() -> None:
    log_p = whole()
    log_p[0] = (8 * log_p[0]).log_softmax(-1)
    p = np.exp(log_p.double().numpy())
    found = {}
    for n in (5, 500):
        comparison = Comparison(Layout(kind="sampled", entries=n, bits=32, vocabulary=V, temperature=1.0))
        record = drawn(log_p, np.random.default_rng(0).random((N, n)))
        for part in (slice(0, 1), slice(1, 7), slice(7, N)):  # few tokens of the first are drawn
            comparison.add(record.take(part), log_p[part].double().numpy())
        found[n] = comparison.result()
        assert record.draws is not None
        w = np.zeros_like(p)
        np.add.at(w, (np.arange(N)[:, None], record.ids), record.draws / n)
        expected = np.where(w > 0, w * np.log(np.maximum(w, 1e-300) / p), 0).sum(-1).mean()
        assert found[n].kl == pytest.approx(expected, abs=1e-5)
    assert found[500].kl is not None and found[5].kl is not None and found[500].kl < found[5].kl / 10


def test_a_sample_is_spread_over_the_rows() -> None:
    assert list(spread_out(5, 3)) == [0, 1, 2]
    assert spread_out(5, 101) == [0, 25, 50, 75, 100]
