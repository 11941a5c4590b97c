"""Plans: every method on fresh and on stretched checkpoints, layer types, partly rotated heads, odd architectures."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.config.rope import Llama3, LongRope, Yarn
from alignkit.errors import RequestError
from alignkit.models.rope import RopePlan, describe, plan_rope, read_rope, rules
from tests.models.rope import oracles
from tests.models.rope.configs import METHODS, computed, config_of, options_of, stretch

SAME_WAY = ("linear", "ntk", "abf", "dynamic", "yarn", "llama3")
"""Methods that reach a length in two steps as in one."""


def close(found: Any, wanted: Any, tolerance: float = 2e-6) -> None:
    np.testing.assert_allclose(found, wanted, rtol=tolerance)


@pytest.mark.parametrize("method", METHODS)
def test_a_plan_gives_what_the_paper_says(method: str) -> None:
    config = config_of(rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    plan = stretch(config, method, 4096)
    inverse, attention = computed(config, 4096)
    wanted = {
        "linear": oracles.linear(5e5, 64, 4),
        "ntk": oracles.ntk(5e5, 64, 4),
        "abf": oracles.rope(max(oracles.critical_base(5e5, 1024, 4096), 5e5 * 4 ** (64 / 62)), 64),
        "dynamic": oracles.dynamic(5e5, 64, 4, 1024, 4096),
        "yarn": oracles.yarn(5e5, 64, 4, 1024, 32, 1, True),
        "llama3": oracles.llama3(5e5, 64, 4, 1024, 1, 4),
        "longrope": oracles.longrope(5e5, 64, 1 + 3 * np.arange(1, 33) / 32),
    }[method]
    close(inverse, wanted)
    factors = {"yarn": 0.1 * np.log(4) + 1, "longrope": np.sqrt(1 + np.log(4) / np.log(1024))}
    assert attention == pytest.approx(factors.get(method, 1.0))
    assert config.rope_parameters["rope_theta"] == pytest.approx(
        5e5 if method not in ("ntk", "abf") else plan.parameters["rope_theta"]
    )
    assert config.max_position_embeddings == (1024 if method == "dynamic" else 4096)
    assert (plan.present, plan.original, plan.target, plan.factor) == (1024, 1024, 4096, 4.0)
    if method in ("yarn", "llama3", "longrope"):
        assert config.rope_parameters["original_max_position_embeddings"] == 1024
    assert read_rope(config).present == 4096


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(SAME_WAY), st.floats(1e4, 1e6), st.integers(1, 6), st.integers(1, 6))
def test_two_steps_are_one(method: str, theta: float, first: int, second: int) -> None:
    once, twice = (config_of(rope_parameters={"rope_type": "default", "rope_theta": theta}) for _ in range(2))
    target = 1024 * (1 + first) * (1 + second)
    one = stretch(once, method, target)
    stretch(twice, method, 1024 * (1 + first))
    two = stretch(twice, method, target)
    assert once.rope_parameters.keys() == twice.rope_parameters.keys()
    for key, value in once.rope_parameters.items():
        assert twice.rope_parameters[key] == (pytest.approx(value) if isinstance(value, float) else value)
    close(computed(twice, target)[0], computed(once, target)[0])
    assert computed(twice, target)[1] == pytest.approx(computed(once, target)[1])
    assert two.positions == one.positions
    if method not in ("ntk", "abf"):  # a base says nothing of the window it came from
        assert (two.original, two.factor) == (one.original, pytest.approx(one.factor))


@pytest.mark.parametrize(
    ("first", "second"),
    [pair for pair in itertools.product(METHODS, METHODS) if pair[1] != "dynamic" or pair[0] in ("ntk", "abf")],
)
def test_a_method_goes_on_top_of_what_the_weights_know(first: str, second: str) -> None:
    """Whatever the first was, the second changes those frequencies as its formula changes plain ones."""
    config = config_of()
    stretch(config, first, 2048)
    trained = read_rope(config).trained
    known, factor = computed(config, 2048 if first == "longrope" else None)
    s = 8192 / trained
    stretch(config, second, 8192)
    found, attention = computed(config, 8192)
    theta, before = 10000.0, config_of()
    dim = 64
    if first == second and first in ("yarn", "llama3"):  # counted from the first window by both factors
        stretch(before, first, 8192)
        close(found, computed(before, 8192)[0])
        return
    if second == "linear":
        close(found, known / s)
    elif second in ("ntk", "abf"):
        base = 1.0 / known[1] ** (dim / 2) if first in ("ntk", "abf") else theta
        ratio = s ** (dim / (dim - 2))
        if second == "abf":
            ratio = max(ratio, oracles.critical_base(base, trained, 8192) / base)
        close(found, known * ratio ** (-np.arange(0, dim, 2) / dim), 2e-5)
    elif second == "yarn":
        close(found, oracles.yarn_on(known, dim, s, trained), 2e-5)
        factor *= 0.1 * np.log(s) + 1
    elif second == "llama3":
        close(found, oracles.llama3_on(known, s, trained, 1, 4))
    elif second == "dynamic":
        alpha = s * 8192 / trained - (s - 1)
        close(found, known * (alpha ** (dim / (dim - 2))) ** (-np.arange(0, dim, 2) / dim), 2e-5)
    else:
        # Given factors count from the plain embedding of the base; short inputs turn as before.
        base = config.rope_parameters["rope_theta"]
        close(found, oracles.longrope(base, dim, 1 + 3 * np.arange(1, 33) / 32))
        if first != "longrope":
            close(computed(config, 512)[0], known)
        return
    assert attention == pytest.approx(factor)
    assert read_rope(config).present == 8192


def test_longrope_keeps_its_short_inputs_when_another_method_goes_on_top() -> None:
    config = config_of()
    stretch(config, "longrope", 2048)
    short = computed(config, 512)[0]
    stretch(config, "linear", 4096)
    close(computed(config, 512)[0], short)


def test_llama_31_goes_on_by_its_own_factor() -> None:
    """Its factor is 8 over a window of 8192, for 131072 tokens: factors and lengths need not agree."""
    parameters = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0}
    parameters |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    config = config_of(max_position_embeddings=131072, rope_parameters=parameters)
    assert describe(config) == "131072 tokens, llama3 by 8 from 8192, theta 500000"
    stretch(config, "llama3", 262144)
    assert config.rope_parameters == {**parameters, "factor": 16.0}
    again = config_of(max_position_embeddings=131072, rope_parameters=dict(parameters))
    plan = stretch(again, "yarn", 262144)
    known = oracles.llama3(5e5, 64, 8, 8192, 1, 4)
    close(computed(again, 262144)[0], oracles.yarn_on(known, 64, 2, 131072), 2e-5)
    assert "llama3 had stretched 8192 by 8" in plan.said


def test_a_yarn_window_may_stand_in_the_factor_alone() -> None:
    parameters = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 1024}
    config = config_of(rope_parameters=parameters)
    assert read_rope(config).present == 4096
    stretch(config, "yarn", 8192)
    assert config.rope_parameters["factor"] == 8.0
    assert config.max_position_embeddings == 8192


def test_parameters_of_a_stretched_model_are_kept_unless_others_are_asked_for() -> None:
    parameters = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 1024}
    parameters |= {"beta_fast": 16.0, "truncate": False, "attention_factor": 1.5, "partial_rotary_factor": 0.5}
    config = config_of(max_position_embeddings=2048, rope_parameters=dict(parameters))
    plan = stretch(copy.deepcopy(config), "yarn", 4096)
    kept = {key: plan.parameters.get(key) for key in parameters}
    assert kept == {**parameters, "factor": 4.0}
    asked = stretch(config, "yarn", 4096, yarn=Yarn(beta_fast=24.0, beta_slow=2.0, truncate=True, attention_factor=1.1))
    values = asked.parameters
    assert (values["beta_fast"], values["beta_slow"], values["truncate"]) == (24.0, 2.0, True)
    assert computed(config)[1] == 1.1
    llama = config_of()
    stretch(llama, "llama3", 4096, llama3=Llama3(low_freq_factor=2.0, high_freq_factor=8.0))
    close(computed(llama)[0], oracles.llama3(1e4, 64, 4, 1024, 2, 8))
    stretch(llama, "llama3", 8192)
    close(computed(llama)[0], oracles.llama3(1e4, 64, 8, 1024, 2, 8))


def test_an_attention_factor_that_was_the_formulas_follows_it() -> None:
    parameters = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 1024}
    written = {**parameters, "attention_factor": rules.yarn_attention(2.0)}
    config = config_of(max_position_embeddings=2048, rope_parameters=written)
    stretch(config, "yarn", 8192)
    assert "attention_factor" not in config.rope_parameters
    assert computed(config)[1] == pytest.approx(0.1 * np.log(8) + 1)


def test_mscale_is_used_and_kept() -> None:
    config = config_of("deepseek_v3", qk_rope_head_dim=32)
    stretch(config, "yarn", 4096, yarn=Yarn(mscale=0.7, mscale_all_dim=1.0))
    wanted = (0.07 * np.log(4) + 1) / (0.1 * np.log(4) + 1)
    assert computed(config)[1] == pytest.approx(wanted)
    close(computed(config)[0], oracles.yarn(1e4, 32, 4, 1024, 32, 1, True))
    stretch(config, "yarn", 8192)
    assert computed(config)[1] == pytest.approx((0.07 * np.log(8) + 1) / (0.1 * np.log(8) + 1))


@pytest.mark.parametrize("kind", ["gemma3_text", "olmo3"])
@pytest.mark.parametrize("method", METHODS)
def test_only_layers_that_look_back_all_the_way_are_stretched(kind: str, method: str) -> None:
    config = config_of(kind, head_dim=64)
    before = copy.deepcopy(config.rope_parameters)
    theta = before["full_attention"]["rope_theta"]
    stretch(config, method, 4096)
    assert config.rope_parameters["sliding_attention"] == before["sliding_attention"]
    plain = config_of(rope_parameters={"rope_type": "default", "rope_theta": theta})
    stretch(plain, method, 4096)
    found, wanted = computed(config, 4096, "full_attention"), computed(plain, 4096)
    close(found[0], wanted[0])
    assert found[1] == pytest.approx(wanted[1])


def test_gemma_3_as_it_is_published_goes_on_linearly() -> None:
    local, full = {"rope_type": "default", "rope_theta": 1e4}, {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}
    config = config_of(
        "gemma3_text",
        head_dim=64,
        max_position_embeddings=131072,
        rope_parameters={"sliding_attention": local, "full_attention": full},
    )
    stretch(config, "linear", 262144)
    assert config.rope_parameters["full_attention"]["factor"] == 16.0
    assert config.rope_parameters["sliding_attention"] == local


@pytest.mark.parametrize("kind", ["gpt_neox", "phi", "stablelm", "glm4"])
@pytest.mark.parametrize("method", METHODS)
def test_partly_rotated_heads_are_stretched_by_their_rotated_part(kind: str, method: str) -> None:
    config = config_of(kind, head_dim=64) if kind == "glm4" else config_of(kind)
    dim = int(64 * config.rope_parameters["partial_rotary_factor"])
    theta, partial = (config.rope_parameters[key] for key in ("rope_theta", "partial_rotary_factor"))
    assert partial < 1 and read_rope(config).layer.dim == dim
    stretch(config, method, 4096)
    assert config.rope_parameters["partial_rotary_factor"] == partial
    inverse, _ = computed(config, 4096)
    assert len(inverse) == dim // 2
    if method == "yarn":
        close(inverse, oracles.yarn(theta, dim, 4, 1024, 32, 1, True))
    if method == "ntk":
        close(inverse, oracles.ntk(theta, dim, 4))


@pytest.mark.parametrize("method", [method for method in METHODS if method != "dynamic"])
def test_phi_3_takes_every_method_as_factors(method: str) -> None:
    """Its configuration takes no type but longrope, and keeps the original window beside rope_parameters."""
    config = config_of("phi3", original_max_position_embeddings=1024)
    stretch(config, method, 4096)
    assert config.rope_parameters["rope_type"] in ("default", "longrope")
    plain = config_of()
    stretch(plain, method, 4096)
    close(computed(config, 4096)[0], computed(plain, 4096)[0])
    assert computed(config, 4096)[1] == pytest.approx(computed(plain, 4096)[1])
    assert config.original_max_position_embeddings == 1024


def test_a_rotated_share_of_the_pairs_is_stretched_by_its_base_and_linearly() -> None:
    for method in ("linear", "ntk", "abf"):
        config = config_of("gemma4_text", head_dim=32, global_head_dim=64, num_hidden_layers=6)
        state = read_rope(config)
        theta = state.layer.theta
        assert state.layer.dim == 64
        stretch(config, method, 4096)
        inverse, _ = computed(config.per_layer_config["full_attention"], None, "full_attention")
        turning = 8
        if method == "linear":
            close(inverse[:turning], oracles.rope(theta, 64)[:turning] / 4)
        else:
            new = config.rope_parameters["full_attention"]["rope_theta"]
            assert new > theta
            close(inverse[:turning], oracles.rope(new, 64)[:turning])
        assert not inverse[turning:].any()
        assert config.rope_parameters["full_attention"]["partial_rotary_factor"] == 0.25


def test_the_original_window_may_be_said() -> None:
    config = config_of(max_position_embeddings=32768)
    plan = stretch(config, "yarn", 16384, original=4096)
    assert (plan.present, plan.factor) == (4096, 4.0)
    assert config.rope_parameters["original_max_position_embeddings"] == 4096
    assert config.max_position_embeddings == 16384


def test_a_larger_factor_leaves_room_and_a_given_base_is_taken() -> None:
    config = config_of()
    stretch(config, "linear", 4096, factor=8.0)
    assert config.rope_parameters["factor"] == 8.0
    config = config_of()
    stretch(config, "abf", 4096, theta=5e5)
    close(computed(config)[0], oracles.rope(5e5, 64))
    config = config_of()
    stretch(config, "linear", 2048)
    stretch(config, "linear", 4096, factor=4.0)
    assert config.rope_parameters["factor"] == 4.0


def test_given_longrope_factors_for_short_inputs_and_attention() -> None:
    config = config_of()
    given = LongRope(long_factor=[2.0] * 32, short_factor=[1.5] * 32, attention_factor=1.25)
    stretch(config, "longrope", 4096, longrope=given)
    close(computed(config, 100)[0], oracles.rope(1e4, 64) / 1.5)
    close(computed(config, 2000)[0], oracles.rope(1e4, 64) / 2)
    assert computed(config)[1] == 1.25


def test_longrope_without_factors_is_searched_first() -> None:
    with pytest.raises(ValueError, match="searched"):
        plan_rope(config_of(), options_of("longrope", longrope=LongRope()), 4096)


def test_a_plan_survives_json_and_changes_nothing_by_itself() -> None:
    import json

    config = config_of("gemma3_text", head_dim=64)
    before = config.to_dict()
    plan = plan_rope(config, options_of("yarn"), 4096)
    assert config.to_dict() == before
    assert RopePlan.from_dict(json.loads(json.dumps(plan.as_dict()))) == plan


def test_notes_say_where_other_readers_part() -> None:
    def notes(method: str, **changes: Any) -> str:
        config = config_of("mistral", sliding_window=changes.pop("sliding_window", None))
        return " ".join(plan_rope(config, options_of(method, config, **changes), 4096).notes)

    assert notes("yarn") == notes("ntk") == notes("llama3") == ""
    assert "vLLM" in notes("dynamic") and "ntk" in notes("dynamic")
    assert "--max-model-len" in notes("linear")
    assert "llama.cpp" in notes("yarn", yarn=Yarn(attention_factor=1.2))
    assert "512 tokens slides" in notes("yarn", sliding_window=512)
    gemma = config_of("gemma3_text", head_dim=64)
    assert any("5.17" in note for note in plan_rope(gemma, options_of("longrope", gemma), 4096).notes)


def test_what_is_refused_is_raised_with_every_fault() -> None:
    with pytest.raises(RequestError) as caught:
        plan_rope(config_of(), options_of("abf", theta=100.0), 512)
    assert [fault.where for fault in caught.value.faults] == ["context.length", "context.theta"]
