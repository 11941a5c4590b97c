"""Every method against the papers: whole tensors in float64 in reference.py, float32 chunks of odd sizes here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alignkit.stages.merge.methods import METHODS
from tests.stages.merge import reference as paper
from tests.stages.merge.driver import merge

WEIGHT = [0.5, 0.75, 0.25, 1.0]
"""Short in binary, so that sums of them with numbers on a grid are exact and no sign hangs on a rounding."""
DENSITY = [0.5, 0.3, 0.8, 0.6]
GAMMA = [0.1, 0.05, 0.0, 0.2]


def kept(share: float, size: int) -> int:
    """How many elements a density leaves: the rule of alignkit, rounded down and at least one."""
    return max(int(share * size), 1)


@dataclass(frozen=True)
class Case:
    """One method with parameters, and what the papers say of it: `expected(models, base)`."""

    method: str
    models: int
    expected: Callable[[Sequence[paper.Array], paper.Array], paper.Array]
    values: dict[str, Any] = field(default_factory=dict)
    base: bool = True
    grids: bool = True
    """Whether it makes sense on numbers of which many are equal."""

    def __str__(self) -> str:
        return "-".join([self.method, str(self.models), *(name for name in self.values), "base" * self.base])


def counts(models: Sequence[paper.Array], shares: Sequence[float]) -> list[int]:
    return [kept(share, model.size) for share, model in zip(shares, models, strict=False)]


def crumbs(models: Sequence[paper.Array]) -> tuple[list[int], list[int]]:
    """How many of the largest breadcrumbs drops and how many it leaves; the largest go first."""
    keep = counts(models, DENSITY)
    top = [min(int(g * m.size), m.size - k) for g, m, k in zip(GAMMA, models, keep, strict=False)]
    return top, keep


W2, W3, W4 = WEIGHT[:2], WEIGHT[:3], WEIGHT
SPARSE = {"weight": W3, "density": DENSITY[:3]}
CRUMBS = {**SPARSE, "gamma": GAMMA[:3]}

CASES = [
    Case("linear", 3, lambda m, b: paper.linear(m, W3), {"weight": W3}, base=False),
    Case(
        "linear",
        3,
        lambda m, b: paper.linear(m, W3, normalize=False),
        {"weight": W3, "normalize": False},
        base=False,
    ),
    Case("passthrough", 1, lambda m, b: paper.wide(m[0]) * -0.3, {"scale": [-0.3]}, base=False),
    Case("slerp", 2, lambda m, b: paper.slerp(m[0], m[1], 0.3), {"t": 0.3}, base=False),
    Case("nuslerp", 2, lambda m, b: paper.nuslerp(m, W2), {"weight": W2}, base=False),
    Case("nuslerp", 2, lambda m, b: paper.nuslerp(m, W2, b), {"weight": W2}),
    Case("nuslerp", 2, lambda m, b: paper.nuslerp(m, W2, wise="row"), {"weight": W2, "row_wise": True}, base=False),
    Case("nuslerp", 2, lambda m, b: paper.nuslerp(m, W2, b, wise="row"), {"weight": W2, "row_wise": True}),
    Case("multislerp", 4, lambda m, b: paper.spherical_mean(m, W4, steps=0, tol=0), {"weight": W4}, base=False),
    Case(
        "multislerp",
        4,
        lambda m, b: paper.wide(b) + paper.spherical_mean(paper.deltas_of(m, b), W4, steps=0, tol=0),
        {"weight": W4},
    ),
    Case("karcher", 4, lambda m, b: paper.spherical_mean(m, W4, steps=200, tol=1e-13), {"weight": W4}, base=False),
    Case("task_arithmetic", 3, lambda m, b: paper.task_arithmetic(m, b, W3), {"weight": W3}),
    Case(
        "task_arithmetic",
        3,
        lambda m, b: paper.task_arithmetic(m, b, W3, scale=0.7),
        {"weight": W3, "scaling": 0.7},
    ),
    Case("ties", 3, lambda m, b: paper.ties(m, b, W3, counts(m, DENSITY)), SPARSE),
    Case("ties", 2, lambda m, b: paper.ties(m, b, W2, counts(m, [0.01, 1.0])), {"weight": W2, "density": [0.01, 1.0]}),
    Case(
        "ties",
        3,
        lambda m, b: paper.ties(m, b, W3, counts(m, DENSITY), scale=0.7, mean=False),
        {**SPARSE, "scaling": 0.7, "normalize": False},
    ),
    Case(
        "ties",
        2,
        lambda m, b: paper.ties(m, b, [0.5, -0.25], counts(m, DENSITY), mean=False),
        {"weight": [0.5, -0.25], "density": DENSITY[:2], "normalize": False},
    ),
    Case("breadcrumbs", 3, lambda m, b: paper.breadcrumbs(m, b, W3, *crumbs(m)), CRUMBS),
    Case("breadcrumbs_ties", 3, lambda m, b: paper.breadcrumbs(m, b, W3, *crumbs(m), signs=True), CRUMBS),
    Case("model_stock", 2, lambda m, b: paper.model_stock(m, b)),
    Case("model_stock", 4, lambda m, b: paper.model_stock(m, b)),
    Case("model_stock", 3, lambda m, b: paper.model_stock(m, b, wise="row"), {"row_wise": True}),
    Case("sce", 4, lambda m, b: paper.sce(m, b, 0.3), {"topk": 0.3}),
    Case("sce", 2, lambda m, b: paper.sce(m, b, 1.0), {"topk": 1.0}),
    Case("nearswap", 1, lambda m, b: paper.nearswap(b, m[0], 0.01), {"t": 0.01}),
    Case("arcee_fusion", 1, lambda m, b: paper.arcee_fusion(b, m[0]), grids=False),
]

SHAPES = [(37, 53), (1999,), (7, 1), (1, 300), (3, 5, 11), (1,)]


def draw(kind: str, shape: tuple[int, ...], models: int, seed: int) -> tuple[list[NDArray], NDArray]:
    """Models and a base: numbers of a "normal" distribution, on a "grid" of 1/64 with many equal ones, or "bf16"."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=shape)
    common = 0.3 * rng.normal(size=shape)
    moved = [base + common + 0.3 * rng.normal(size=shape) for _ in range(models)]
    everything = [base, *moved]
    if kind == "grid":
        everything = [np.round(x * 64) / 64 for x in everything]
    if kind == "bf16":
        everything = [to_bf16(x) for x in everything]
    base, *moved = (x.astype(np.float32) for x in everything)
    return moved, base


def step_of_bf16(values: NDArray) -> NDArray:
    """The distance between neighbouring bf16 numbers (8 significant bits) at each value."""
    _, exponent = np.frexp(values)
    return np.ldexp(1.0, np.maximum(exponent, -125) - 8)


def to_bf16(values: NDArray) -> NDArray:
    """To the nearest bf16 number, to the even one of two, as float64."""
    step = step_of_bf16(np.asarray(values, np.float64))
    return np.round(values / step) * step


def ours(case: Case, models: list[NDArray], base: NDArray, **settings: Any) -> NDArray:
    return merge(case.method, models, base if case.base else None, **settings, **case.values)


def test_every_deterministic_method_has_a_case() -> None:
    assert {name for name, method in METHODS.items() if not method.random} == {case.method for case in CASES}


@pytest.mark.parametrize("kind", ["normal", "grid"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32_agrees_to_a_millionth(case: Case, kind: str) -> None:
    if kind == "grid" and not case.grids:
        pytest.skip("its scores are compared with a quantile of them: on a grid their rounding would decide")
    for seed, shape in enumerate(SHAPES):
        models, base = draw(kind, shape, case.models, seed)
        expected = case.expected(models, base)
        size = np.max(np.abs([base, *models]), axis=0)
        for chunk in (1, 61, 1009, 1 << 20):
            if chunk == 1 and base.size > 400:
                continue
            found = ours(case, models, base, chunk=chunk, shuffle=seed)
            assert found.dtype == np.float32 and found.shape == shape
            wrong = np.abs(found - expected) > 1e-6 * np.maximum(size, 1)
            assert not wrong.any(), f"{wrong.sum()} of {wrong.size} elements at {shape}, chunks of {chunk}"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bf16_is_the_rounding_of_the_exact_result(case: Case) -> None:
    models, base = draw("bf16", (61, 97), case.models, 5)
    expected = case.expected(models, base)
    found = to_bf16(ours(case, models, base, chunk=500))
    # Half a step is the rounding itself; float32 may be off by a little before it.
    size = np.max(np.abs([base, *models]), axis=0)
    assert (np.abs(found - expected) <= step_of_bf16(expected) / 2 + 1e-6 * size).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_order_of_the_chunks_changes_no_bit(case: Case) -> None:
    models, base = draw("normal", (83, 41), case.models, 8)
    plain = ours(case, models, base, chunk=257, shuffle=None)
    assert all(np.array_equal(plain, ours(case, models, base, chunk=257, shuffle=seed)) for seed in (1, 2, 3))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_tensor_of_several_blocks_and_chunks(case: Case) -> None:
    models, base = draw("bf16", (350, 301), case.models, 6)
    found = ours(case, models, base, chunk=70_001)
    size = np.max(np.abs([base, *models]), axis=0)
    assert (np.abs(found - case.expected(models, base)) <= 1e-6 * np.maximum(size, 1)).all()


def unusual(count: int, base: NDArray) -> dict[str, list[NDArray]]:
    """Models that are the base, differ from it in a few places, have outliers, and are zero but for one."""
    rng = np.random.default_rng(3)
    rare = [rng.random(base.shape) < 0.1 for _ in range(count)]
    found = {
        "same": [base] * count,
        "nearly the same": [base + 2.0**-7 * rng.integers(-1, 2, base.shape) * mask for mask in rare],
        "outliers": [base * np.where(rng.random(base.shape) < 0.02, 64, 1) for _ in range(count)],
        "zeros": [base, *[np.zeros_like(base)] * (count - 1)],
    }
    return {name: [np.asarray(model, np.float32) for model in models] for name, models in found.items()}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_unusual_tensors(case: Case) -> None:
    base = np.random.default_rng(2).normal(size=(20, 30)).astype(np.float32)
    for name, models in unusual(case.models, base).items():
        found = ours(case, models, base, chunk=101)
        size = np.maximum(np.max(np.abs([base, *models]), axis=0), 1)
        assert (np.abs(found - case.expected(models, base)) <= 2e-6 * size).all(), name
