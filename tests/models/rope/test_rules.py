"""Frequencies of every method against the papers' formulas in numpy and against transformers, and their properties."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.models.rope import frequencies, rules
from tests.models.rope import oracles

THETA = st.floats(1e3, 5e6)
DIM = st.integers(4, 128).map(lambda half: 2 * half)
FACTOR = st.floats(1.0, 64.0)
WINDOW = st.integers(64, 131072)


def close(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), rtol=1e-9)


@settings(deadline=None, max_examples=60)
@given(THETA, DIM, FACTOR, WINDOW, st.floats(4, 64), st.floats(0.5, 3), st.booleans())
def test_yarn_is_the_papers(
    theta: float, dim: int, s: float, window: int, fast: float, slow: float, rounded: bool
) -> None:
    found = rules.yarn(rules.plain(theta, dim), dim, s, window, beta_fast=fast, beta_slow=slow, truncate=rounded)
    if rounded:  # a number of turns that falls on a whole pair may be rounded either way by the last bit
        ends = [dim * math.log(window / (2 * math.pi * turns)) / (2 * math.log(theta)) for turns in (fast, slow)]
        if any(abs(end - round(end)) < 1e-9 for end in ends):
            return
    np.testing.assert_allclose(found, oracles.yarn(theta, dim, s, window, fast, slow, rounded), rtol=1e-6)


@settings(deadline=None, max_examples=60)
@given(THETA, DIM, FACTOR, WINDOW)
def test_the_other_rules_are_the_papers(theta: float, dim: int, s: float, window: int) -> None:
    plain = rules.plain(theta, dim)
    close(plain, oracles.rope(theta, dim))
    close(rules.interpolated(plain, s), oracles.linear(theta, dim, s))
    close(rules.plain(rules.ntk_theta(theta, dim, s), dim), oracles.ntk(theta, dim, s))
    close(rules.rebased(plain, s ** (dim / (dim - 2)), dim), oracles.ntk(theta, dim, s))
    close(rules.llama3(plain, s, window), oracles.llama3(theta, dim, s, window, 1, 4))
    length = int(window * s)
    base = rules.dynamic_theta(theta, dim, s, window, length)
    close(rules.plain(base, dim), oracles.dynamic(theta, dim, s, window, length))


@settings(deadline=None, max_examples=60)
@given(THETA, DIM, WINDOW, st.floats(1.01, 32))
def test_the_critical_base_is_the_papers_and_never_below_ntks(theta: float, dim: int, window: int, s: float) -> None:
    target = int(window * s) + 1
    found = rules.critical_theta(theta, dim, window, target)
    least = rules.ntk_theta(theta, dim, target / window)
    assert found == pytest.approx(max(oracles.critical_base(theta, window, target), least))
    assert found > theta


@settings(deadline=None, max_examples=60)
@given(THETA, DIM, FACTOR, WINDOW)
def test_stretched_frequencies_fall_and_lie_between_the_plain_and_the_interpolated(
    theta: float, dim: int, s: float, window: int
) -> None:
    plain = np.array(rules.plain(theta, dim))
    for found in (
        rules.interpolated(plain, s),
        rules.plain(rules.ntk_theta(theta, dim, s), dim),
        rules.yarn(list(plain), dim, s, window),
        rules.llama3(list(plain), s, window),
    ):
        values = np.array(found)
        assert np.all(np.diff(values) < 0)
        assert np.all(values <= plain * (1 + 1e-12))
        assert np.all(values >= plain / s * (1 - 1e-12))


@settings(deadline=None, max_examples=60)
@given(THETA, DIM, st.floats(1.0, 32.0), st.floats(1.001, 2.0), WINDOW)
def test_a_larger_stretch_never_turns_faster(theta: float, dim: int, s: float, more: float, window: int) -> None:
    plain = rules.plain(theta, dim)
    pairs = (
        [rules.yarn(plain, dim, one, window) for one in (s, s * more)],
        [rules.llama3(plain, one, window) for one in (s, s * more)],
        [rules.plain(rules.ntk_theta(theta, dim, one), dim) for one in (s, s * more)],
    )
    for smaller, larger in pairs:
        assert np.all(np.array(larger) <= np.array(smaller) * (1 + 1e-12))
    assert rules.yarn_attention(s * more) > rules.yarn_attention(s)
    assert rules.longrope_attention(s * more, window) > rules.longrope_attention(s, window)


@settings(deadline=None, max_examples=40)
@given(THETA, DIM, WINDOW)
def test_a_stretch_of_one_changes_nothing(theta: float, dim: int, window: int) -> None:
    plain = rules.plain(theta, dim)
    close(rules.interpolated(plain, 1), plain)
    close(rules.yarn(plain, dim, 1, window), plain)
    close(rules.llama3(plain, 1, window), plain)
    assert rules.ntk_theta(theta, dim, 1) == theta
    assert rules.dynamic_theta(theta, dim, 8, window, window // 2) == pytest.approx(theta)
    assert rules.yarn_attention(1) == rules.longrope_attention(1, window) == 1


def test_ntk_stretches_the_slowest_pair_by_the_factor_and_leaves_the_fastest() -> None:
    found, plain = rules.plain(rules.ntk_theta(1e4, 64, 8), 64), rules.plain(1e4, 64)
    assert found[0] == plain[0]
    assert plain[-1] / found[-1] == pytest.approx(8)


def test_attention_factors_by_hand() -> None:
    assert rules.yarn_attention(16) == pytest.approx(0.1 * math.log(16) + 1)
    assert rules.yarn_attention(40, 1.0, 1.0) == 1.0
    assert rules.yarn_attention(40, 0.707, 1.0) == pytest.approx((0.0707 * math.log(40) + 1) / (0.1 * math.log(40) + 1))
    assert rules.longrope_attention(32, 4096) == pytest.approx(math.sqrt(1 + math.log(32) / math.log(4096)))


CASES: list[tuple[str, dict[str, Any]]] = [
    ("linear", {"factor": 4.0}),
    ("dynamic", {"factor": 4.0}),
    ("yarn", {"factor": 4.0, "original_max_position_embeddings": 512}),
    ("yarn", {"factor": 8.0, "original_max_position_embeddings": 512, "beta_fast": 16, "beta_slow": 2}),
    ("yarn", {"factor": 8.0, "original_max_position_embeddings": 512, "truncate": False}),
    ("yarn", {"factor": 8.0, "original_max_position_embeddings": 512, "attention_factor": 1.3}),
    ("yarn", {"factor": 8.0, "original_max_position_embeddings": 512, "mscale": 0.7, "mscale_all_dim": 1.0}),
    ("llama3", {"factor": 4.0, "original_max_position_embeddings": 512, "low_freq_factor": 1, "high_freq_factor": 4}),
    ("longrope", {"factor": 4.0, "original_max_position_embeddings": 512}),
    ("longrope", {"factor": 4.0, "original_max_position_embeddings": 512, "attention_factor": 1.2}),
]


@pytest.mark.parametrize("partial", [None, 0.5])
@pytest.mark.parametrize(("kind", "values"), CASES)
def test_every_type_is_what_transformers_computes(kind: str, values: dict[str, Any], partial: float | None) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    dim = 64 if partial is None else 32
    parameters = {"rope_type": kind, "rope_theta": 5e5, **values}
    if partial is not None:
        parameters["partial_rotary_factor"] = partial
    if kind == "longrope":
        rising = [1 + 3 * i / (dim // 2) for i in range(dim // 2)]
        parameters |= {"short_factor": [1.0] * (dim // 2), "long_factor": rising}
    config = LlamaConfig(
        hidden_size=256, num_attention_heads=4, max_position_embeddings=2048, rope_parameters=dict(parameters)
    )
    for length in (None, 256, 1024, 8192):
        inverse, attention = ROPE_INIT_FUNCTIONS[kind](config, None, seq_len=length)
        found = frequencies(parameters, dim, positions=2048, length=length)
        np.testing.assert_allclose(found.inverse, inverse.double().numpy(), rtol=1e-6)
        assert found.attention == pytest.approx(attention, rel=1e-12)


def test_an_unknown_type_and_a_missing_value_are_errors() -> None:
    with pytest.raises(ValueError, match="axial"):
        frequencies({"rope_type": "axial", "rope_theta": 1e4}, 64, positions=512)
    with pytest.raises(KeyError):
        frequencies({"rope_type": "linear", "rope_theta": 1e4}, 64, positions=512)
