"""The search for LongRoPE's factors: it finds what it is led to, keeps its bounds, and a seed decides it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.config.rope import LongRope, LongRopeSearch
from alignkit.models.rope import plan_rope, read_rope
from alignkit.models.rope.search import Factors, largest_factor, search_factors, start_candidates
from tests.models.rope import oracles
from tests.models.rope.configs import computed, config_of, options_of, stretch


def landscape(best: Factors) -> Any:
    """A perplexity with one lowest point."""
    return lambda factors: 10 + sum((a - b) ** 2 for a, b in zip(factors, best, strict=True))


def started() -> tuple[dict[str, Factors], float]:
    state = read_rope(config_of(hidden_size=64))
    return start_candidates(state, 4096), largest_factor(state, 4096)


def test_it_starts_from_linear_ntk_and_yarn_as_factors() -> None:
    start, largest = started()
    plain = oracles.rope(1e4, 16)
    for name, wanted in (
        ("linear", plain / 4),
        ("ntk", oracles.ntk(1e4, 16, 4)),
        ("yarn", oracles.yarn(1e4, 16, 4, 1024, 32, 1, True)),
    ):
        np.testing.assert_allclose(plain / np.array(start[name]), wanted, rtol=1e-9)
    assert largest == 5.0


@pytest.mark.parametrize("method", ["linear", "llama3", "longrope"])
def test_on_a_stretched_model_it_starts_from_what_the_weights_know(method: str) -> None:
    config = config_of(hidden_size=64)
    stretch(config, method, 2048)
    known, _ = computed(config, 2048)
    start = start_candidates(read_rope(config), 4096)
    np.testing.assert_allclose(oracles.rope(1e4, 16) / np.array(start["linear"]), known / 2, rtol=1e-6)


def test_it_finds_better_factors_than_it_starts_from() -> None:
    start, largest = started()
    best = (1.0, 1.2, 1.5, 2.0, 2.2, 3.0, 3.1, 4.5)
    options = LongRopeSearch(generations=40, population=64, parents=32, mutations=16, crossovers=16)
    found = search_factors(landscape(best), start, largest, options, seed=0)
    assert found.perplexity - 10 < 0.1 * (min(found.start.values()) - 10)
    assert list(found.rounds) == sorted(found.rounds, reverse=True), "the best of a round is never lost"
    assert found.rounds[0] == min(found.start.values()) and found.rounds[-1] == found.perplexity


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(0, 4), st.floats(0.05, 1.0))
def test_every_candidate_keeps_the_bounds_and_none_is_judged_twice(seed: int, generations: int, rate: float) -> None:
    start, largest = started()
    seen: list[Factors] = []

    def perplexity(factors: Factors) -> float:
        seen.append(factors)
        return landscape((1.0,) * 8)(factors)

    options = LongRopeSearch(generations=generations, population=8, parents=4, mutation_rate=rate)
    found = search_factors(perplexity, start, largest, options, seed=seed)
    assert len(seen) == len(set(seen)) == found.judged
    for factors in seen:
        assert len(factors) == 8 and factors[0] >= 1 and factors[-1] <= largest
        assert all(a <= b for a, b in itertools.pairwise(factors))
    assert found.factors in seen and found.perplexity == min(map(landscape((1.0,) * 8), seen))


def test_a_seed_decides_it() -> None:
    start, largest = started()
    options = LongRopeSearch(generations=3, population=8, parents=4)
    lines: list[str] = []
    runs = [
        search_factors(landscape((2.0,) * 8), start, largest, options, seed=seed, tell=lines.append)
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]
    assert len(lines) == 9 and "round 3 of 3" in lines[-1]


def test_without_rounds_the_best_of_the_start_is_taken() -> None:
    start, largest = started()
    found = search_factors(landscape(start["yarn"]), start, largest, LongRopeSearch(generations=0), seed=0)
    assert found.factors == start["yarn"] and found.judged == 3 and len(found.rounds) == 1


def test_a_perplexity_that_is_no_number_never_wins() -> None:
    start, largest = started()
    bad = start["yarn"]
    options = LongRopeSearch(generations=2, population=6, parents=3)
    found = search_factors(lambda f: math.nan if f == bad else f[-1], start, largest, options, seed=0)
    assert found.factors != bad and math.isfinite(found.perplexity)
    with pytest.raises(ValueError, match="finite"):
        search_factors(lambda f: math.inf, start, largest, options, seed=0)
    with pytest.raises(ValueError, match="lengths"):
        search_factors(len, {"a": (1.0,), "b": (1.0, 2.0)}, largest, options, seed=0)  # type: ignore[arg-type]


def test_what_is_found_makes_a_plan() -> None:
    config = config_of(hidden_size=64)
    start, largest = started()
    options = LongRopeSearch(generations=2, population=6, parents=3)
    found = search_factors(landscape((1.5,) * 8), start, largest, options, seed=0)
    given_options = options_of("longrope", longrope=LongRope(long_factor=list(found.factors)))
    plan = plan_rope(config, given_options, 4096)
    assert plan.parameters["long_factor"] == list(found.factors) and plan.parameters["short_factor"] == [1.0] * 8
