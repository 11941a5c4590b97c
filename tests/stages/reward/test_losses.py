"""Losses against the papers' formulas in numpy, values and gradients, and against TRL's where it has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alignkit.stages.reward.losses import bradley_terry, cross_entropy, squared_error


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).requires_grad_()


def numeric(function, values: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """The gradient of the sum by central differences."""
    found = np.zeros_like(values)
    for at in range(len(values)):
        up, down = values.copy(), values.copy()
        up[at] += step
        down[at] -= step
        found[at] = (function(up).sum() - function(down).sum()) / (2 * step)
    return found


@pytest.mark.parametrize("margin", [None, 0.7])
@pytest.mark.parametrize("center", [0.0, 0.01, 0.5])
def test_bradley_terry_is_the_papers(margin: float | None, center: float) -> None:
    rng = np.random.default_rng(0)
    chosen, rejected = rng.normal(0, 3, 12), rng.normal(0, 3, 12)
    margins = None if margin is None else margin * rng.uniform(-1, 3, 12)

    def expected(c: np.ndarray, r: np.ndarray) -> np.ndarray:
        by = 0 if margins is None else margins
        return np.log1p(np.exp(-(c - r - by))) + center * (c + r) ** 2

    c, r = tensor(chosen), tensor(rejected)
    given = None if margins is None else torch.tensor(margins)
    losses = bradley_terry(c, r, given, center=center)
    np.testing.assert_allclose(losses.detach(), expected(chosen, rejected), atol=1e-12)
    losses.sum().backward()
    np.testing.assert_allclose(c.grad, numeric(lambda x: expected(x, rejected), chosen), atol=1e-6)
    np.testing.assert_allclose(r.grad, numeric(lambda x: expected(chosen, x), rejected), atol=1e-6)


def test_the_others_are_the_textbooks() -> None:
    rng = np.random.default_rng(1)
    rewards, scores = rng.normal(0, 2, 9), rng.normal(0, 2, 9)
    wanted = rng.random(9) < 0.5
    r = tensor(rewards)
    np.testing.assert_allclose(squared_error(r, torch.tensor(scores)).detach(), (rewards - scores) ** 2, atol=1e-12)
    p = 1 / (1 + np.exp(-rewards))
    losses = cross_entropy(r, torch.tensor(wanted))
    np.testing.assert_allclose(losses.detach(), -np.where(wanted, np.log(p), np.log(1 - p)), atol=1e-12)
    losses.sum().backward()
    np.testing.assert_allclose(r.grad, p - wanted, atol=1e-12)


def test_large_rewards_stay_finite() -> None:
    far = torch.tensor([1e4, -1e4], dtype=torch.float32)
    for losses in (bradley_terry(far, -far), cross_entropy(far, torch.tensor([False, True]))):
        assert torch.isfinite(losses).all() and float(losses.max()) >= 1e4
