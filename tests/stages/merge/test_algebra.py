"""What must hold of a merge whatever the numbers: fixed points, ends, symmetries, and methods that are each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from alignkit.stages.merge.methods import METHODS
from tests.stages.merge.driver import merge

seeds = st.integers(0, 2**32 - 1)
chunks = st.integers(1, 700)
few = settings(max_examples=20, deadline=None)

ALL = {"dare_linear": {"density": 1.0}, "dare_ties": {"density": 1.0}, "ties": {"density": 1.0}}
ALL |= {"della_linear": {"density": 1.0, "epsilon": 0.0}, "della": {"density": 1.0, "epsilon": 0.0}}
ALL |= {"breadcrumbs": {"density": 1.0, "gamma": 0.0}, "breadcrumbs_ties": {"density": 1.0, "gamma": 0.0}}
"""Parameters with which a method drops nothing."""


def normal(seed: int, count: int, shape: tuple[int, ...] = (17, 23)) -> list[NDArray]:
    """`count` tensors, float32."""
    return list(np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32))


def near(found: NDArray, expected: NDArray, tolerance: float = 3e-6) -> None:
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def whole(method: str, models: int) -> dict[str, Any]:
    """Parameters with which the weights sum to one and nothing is dropped."""
    values: dict[str, Any] = {name: [value] * models for name, value in ALL.get(method, {}).items()}
    if "weight" in METHODS[method].parameters:
        values["weight"] = [1 / models] * models
    return values


@few
@given(seed=seeds, chunk=chunks)
@pytest.mark.parametrize("method", METHODS)
def test_a_model_merged_with_itself_is_itself(method: str, seed: int, chunk: int) -> None:
    base, model = normal(seed, 2)
    if method == "arcee_fusion" or method == "nearswap":
        base = model  # they go only a part of the way from the base
    least, most = METHODS[method].models
    count = max(least, min(3, most or 3))
    values = whole(method, count)
    if method in ("dare_ties", "breadcrumbs_ties"):
        values["normalize"] = True
    near(merge(method, [model] * count, base, chunk=chunk, **values), model)


@pytest.mark.parametrize("method", [name for name, one in METHODS.items() if one.base == "needed"])
def test_where_no_model_moved_the_base_stays_to_the_bit(method: str) -> None:
    base = normal(1, 1)[0]
    count = max(METHODS[method].models[0], 1)
    assert np.array_equal(merge(method, [base] * count, base), base)


SYMMETRIC = [name for name, one in METHODS.items() if one.models[1] is None and not one.random]


@few
@given(seed=seeds)
@pytest.mark.parametrize("method", SYMMETRIC)
def test_weights_and_densities_go_with_their_models(method: str, seed: int) -> None:
    base, *models = normal(seed, 4)
    rng = np.random.default_rng(seed)
    order = rng.permutation(3)
    own = {n: rng.uniform(0.1, 0.4, 3) for n, one in METHODS[method].parameters.items() if one.per_model}
    plain = merge(method, models, base, **{n: list(value) for n, value in own.items()})
    mixed = merge(method, [models[i] for i in order], base, **{n: list(value[order]) for n, value in own.items()})
    near(mixed, plain)


@few
@given(seed=seeds, chunk=chunks)
def test_the_ends_of_an_interpolation_are_the_models(seed: int, chunk: int) -> None:
    base, first, second = normal(seed, 3)
    for t, end in ((0.0, first), (1.0, second)):
        near(merge("slerp", [first, second], chunk=chunk, t=t), end)
        for row_wise in (False, True):
            for ground in (None, base):
                values = {"weight": [1 - t, t], "row_wise": row_wise}
                near(merge("nuslerp", [first, second], ground, chunk=chunk, **values), end)
    near(merge("nearswap", [first], base, t=0.0), base)
    near(merge("nearswap", [first], base, t=1e6), first)


@few
@given(seed=seeds)
@pytest.mark.parametrize("method", sorted(ALL))
def test_density_one_is_task_arithmetic(method: str, seed: int) -> None:
    """For the methods that elect signs, where the models agree on all of them."""
    base, *moves = normal(seed, 4)
    if "ties" in method or method == "della":
        moves = [np.abs(move) * np.sign(moves[0]) for move in moves]
    models = [base + move for move in moves]
    weight = [0.5, 0.3, 0.7]
    values = {name: [value] * 3 for name, value in ALL[method].items()}
    found = merge(method, models, base, weight=weight, normalize=False, scaling=0.8, **values)
    near(found, merge("task_arithmetic", models, base, weight=weight, scaling=0.8))


@few
@given(seed=seeds)
def test_spherical_means_keep_lengths_and_meet_slerp_half_way(seed: int) -> None:
    first, second = normal(seed, 2)
    second *= np.linalg.norm(first) / np.linalg.norm(second)
    middle = merge("slerp", [first, second], t=0.5)
    near(np.linalg.norm(middle), np.linalg.norm(first), 1e-5)
    for method in ("karcher", "multislerp"):
        near(merge(method, [first, second]), middle, 1e-5)
    near(merge("nuslerp", [first, second], weight=[2.0, 2.0]), middle, 1e-5)


@few
@given(seed=seeds, turn=st.floats(0.1, 1.5))
def test_model_stock_goes_as_far_as_the_models_agree(seed: int, turn: float) -> None:
    """Two task vectors of one length at an angle: t = 2 cos / (1 + cos) (Jang et al. 2024, eq. 2)."""
    base, one, other = (x.astype(np.float64).ravel() for x in normal(seed, 3))
    one /= np.linalg.norm(one)
    other -= one * (one @ other)
    other /= np.linalg.norm(other)
    moves = [one, np.cos(turn) * one + np.sin(turn) * other]
    models = [(base + 10 * move).astype(np.float32) for move in moves]
    t = 2 * np.cos(turn) / (1 + np.cos(turn))
    expected = base + t * 10 * (moves[0] + moves[1]) / 2
    near(merge("model_stock", models, base.astype(np.float32)), expected, 1e-5)
    opposed = [(base + 10 * one).astype(np.float32), (base - 10 * one).astype(np.float32)]
    near(merge("model_stock", opposed, base.astype(np.float32)), base)


@few
@given(seed=seeds)
def test_ties_is_odd_in_the_task_vectors(seed: int) -> None:
    base, *models = normal(seed, 4)
    base = np.zeros_like(base)
    values = {"weight": [0.5, 0.3, 0.7], "density": [0.5, 0.4, 0.9]}
    near(merge("ties", [-model for model in models], base, **values), -merge("ties", models, base, **values))


@few
@given(seed=seeds)
def test_what_is_kept_are_the_largest(seed: int) -> None:
    base, model = normal(seed, 2)
    found = merge("ties", [model], base, density=[0.25]) != base
    size = np.abs(model - base)
    assert found.sum() == model.size // 4
    assert size[found].min() >= size[~found].max()
    crumbs = merge("breadcrumbs", [model], base, density=[0.5], gamma=[0.1]) != base
    order = np.argsort(-size.ravel())
    first = int(0.1 * model.size)
    assert set(np.flatnonzero(crumbs)) == set(order[first : first + model.size // 2])


def test_of_equal_elements_the_first_are_kept() -> None:
    """The rule for a threshold that runs through equal magnitudes: the lowest positions, in every chunking."""
    base = np.zeros((10, 10), np.float32)
    model = np.ones_like(base) * np.where(np.arange(100).reshape(10, 10) % 3, 1, -1).astype(np.float32)
    for chunk in (7, 30, 1000):
        found = merge("ties", [model], base, density=[0.42], chunk=chunk).ravel()
        assert np.array_equal(np.flatnonzero(found), np.arange(42))
