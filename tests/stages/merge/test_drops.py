"""DARE and DELLA: how much is kept, by what it is divided, and that the mean over seeds is the plain sum."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.stages.merge import reference as paper
from tests.stages.merge.driver import merge

SHAPE = (64, 96)
RANDOM = ["dare_linear", "dare_ties", "della_linear", "della"]


def moves(seed: int = 0) -> tuple[NDArray, NDArray]:
    """A base of zeros, so that what is kept of a task vector stands alone, and a model."""
    return np.zeros(SHAPE, np.float32), np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


def within_chance(count: float, expected: float, spread: float) -> None:
    """Not farther off than five standard deviations."""
    assert abs(count - expected) <= 5 * spread, f"{count} where {expected} ± {spread} is expected"


@pytest.mark.parametrize("density", [0.1, 0.5, 0.83])
def test_dare_keeps_its_share_and_divides_by_it(density: float) -> None:
    base, model = moves()
    found = merge("dare_linear", [model], base, density=[density])
    kept = found != 0
    within_chance(kept.sum(), density * model.size, np.sqrt(model.size * density * (1 - density)))
    # A density is taken in steps of 1/65536, hence the tolerance.
    np.testing.assert_allclose(found[kept], model[kept] / density, rtol=2e-4)
    plain = merge("dare_linear", [model], base, density=[density], rescale=False)
    assert np.array_equal(plain[kept], model[kept]) and not plain[~kept].any()


def test_dare_drops_large_and_small_alike_and_everywhere_alike() -> None:
    base, model = moves()
    kept = merge("dare_linear", [model], base, density=[0.5]) != 0
    large = np.abs(model) > np.median(np.abs(model))
    half = np.sqrt(model.size / 2 * 0.25)
    for part in (large, ~large, np.arange(model.size).reshape(SHAPE) < model.size / 2):
        within_chance(kept[part].sum(), part.sum() / 2, half)
    flat = kept.ravel()
    for lag in (1, 2, 4, 16, SHAPE[1]):  # neighbours know nothing of each other
        within_chance((flat[lag:] == flat[:-lag]).sum(), (flat.size - lag) / 2, np.sqrt(flat.size / 4))


@pytest.mark.parametrize(("density", "epsilon"), [(0.5, 0.3), (0.3, 0.2), (0.7, 0.0)])
def test_della_keeps_by_rank_and_divides_by_each_chance(density: float, epsilon: float) -> None:
    base, model = moves()
    chance = paper.keep_probabilities(model, density, epsilon)
    total = np.zeros(SHAPE)
    for seed in range(50):
        found = merge("della_linear", [model], base, density=[density], epsilon=[epsilon], key=bytes([seed]))
        kept = found != 0
        np.testing.assert_allclose(found[kept], (model / chance)[kept], rtol=2e-4)
        total += kept
    for low in np.arange(density - epsilon, density + epsilon + 1e-9, max(epsilon / 4, 0.1)):
        part = (chance >= low) & (chance < low + max(epsilon / 4, 0.1))
        if part.any():
            spread = np.sqrt(50 * (chance * (1 - chance))[part].sum())
            within_chance(total[part].sum(), 50 * chance[part].sum(), spread)


def test_della_takes_a_vector_as_one_row() -> None:
    model = np.random.default_rng(4).normal(size=4000).astype(np.float32)
    kept = merge("della_linear", [model], np.zeros_like(model), density=[0.5], epsilon=[0.5 - 1e-3], chunk=100) != 0
    order = np.argsort(np.abs(model))
    assert kept[order[:400]].mean() < 0.15 and kept[order[-400:]].mean() > 0.85


@pytest.mark.parametrize("method", ["dare_linear", "della_linear"])
def test_the_mean_over_seeds_is_the_weighted_sum(method: str) -> None:
    base, first = moves(1)
    _, second = moves(2)
    base = (base + 0.25).astype(np.float32)
    models, weight, runs = [base + first, base + second], [0.5, 0.75], 200
    exact = paper.task_arithmetic(models, base, weight, scale=0.9)
    total = np.zeros(SHAPE)
    for run in range(runs):
        total += merge(method, models, base, weight=weight, scaling=0.9, key=run.to_bytes(2, "little"))
    density, epsilon = 0.5, 0.1 if method == "della_linear" else 0.0
    spread = np.zeros(SHAPE)
    for w, model in zip(weight, models, strict=True):
        delta = paper.wide(model) - base
        chance = paper.keep_probabilities(delta, density, epsilon)
        spread += (0.9 * w * delta) ** 2 * (1 - chance) / chance
    score = (total / runs - exact) / np.sqrt(spread / runs)
    assert np.abs(score).max() < 6
    assert abs(score.mean()) < 5 / np.sqrt(score.size)
    assert abs(score.std() - 1) < 0.1


@pytest.mark.parametrize("method", RANDOM)
def test_only_the_key_decides_what_is_dropped(method: str) -> None:
    base, model = moves()
    plain = merge(method, [model], base, key=b"a", chunk=500, shuffle=None)
    for chunk in (96, 500, 10**6):
        assert np.array_equal(plain, merge(method, [model], base, key=b"a", chunk=chunk, shuffle=chunk))
    assert not np.array_equal(plain != 0, merge(method, [model], base, key=b"b") != 0)


@pytest.mark.parametrize("method", RANDOM)
def test_models_are_thinned_apart_and_signs_elected_after(method: str) -> None:
    """Two models of one sign: a position holds both, one or none, each a quarter of the time where halves are kept."""
    base = np.zeros(SHAPE, np.float32)
    first, second = np.full(SHAPE, 1.0, np.float32), np.full(SHAPE, 4.0, np.float32)
    values = {"density": [0.5, 0.5], "normalize": False}
    if "della" in method:
        values["epsilon"] = [0.0, 0.0]
    found = np.round(merge(method, [first, second], base, **values) / 2)
    assert set(np.unique(found)) == {0, 1, 4, 5}
    for value in (0, 1, 4, 5):
        within_chance((found == value).sum(), found.size / 4, np.sqrt(found.size * 3 / 16))
    if method in ("dare_ties", "della"):
        against = np.round(merge(method, [first, -second], base, **values) / 2)
        assert set(np.unique(against)) == {-4, 0, 1}  # where both are kept the larger one wins
