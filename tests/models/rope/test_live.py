"""Rotary positions of a model that stands: set anew, tried, held. Always against a model built with the values."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from alignkit.config.rope import Yarn
from alignkit.config.sections import Adapter
from alignkit.errors import RunError
from alignkit.models.rope import apply_rope, plan_rope
from alignkit.models.rope.live import change_rope, held_rope, tried_rope
from tests.models.rope.configs import METHODS, SEVERAL_TYPES_OF_LONGROPE, options_of
from tests.tiny import build_model

KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "gemma3_text": {"head_dim": 8, "layers": 6, "sliding_window": 128},
    "phi3": {"original_max_position_embeddings": 512},
}


def logits(model: Any, length: int = 600, **more: Any) -> torch.Tensor:
    ids = (torch.arange(length)[None] * 7) % 250 + 3
    with torch.no_grad():
        found: torch.Tensor = model(ids, **more).logits
    return found


def built_with(model: Any, plan: Any) -> Any:
    """A model of the same weights, built from a configuration that has the plan."""
    config = copy.deepcopy(model.config)
    apply_rope(config, plan)
    other = type(model)(config)
    other.load_state_dict(model.state_dict())
    return other.eval()


UNABLE = [("phi3", "dynamic"), *([] if SEVERAL_TYPES_OF_LONGROPE else [("gemma3_text", "longrope")])]
CASES = [(kind, method) for kind in KINDS for method in METHODS if (kind, method) not in UNABLE]


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_a_change_is_as_if_the_model_had_been_built_so(kind: str, method: str) -> None:
    model = build_model(kind, **KINDS[kind]).eval()
    plan = plan_rope(model.config, options_of(method, model.config), 2048)
    other, before = built_with(model, plan), logits(model)
    change_rope(model, plan)
    assert torch.equal(logits(model), logits(other))
    assert not torch.equal(logits(model), before)
    assert model.config.to_dict() == other.config.to_dict()


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_changed_after_the_model_was_built_does_nothing(kind: str) -> None:
    """The trap that change_rope is there for."""
    model = build_model(kind, **KINDS[kind]).eval()
    before = logits(model)
    apply_rope(model.config, plan_rope(model.config, options_of("linear", model.config), 2048))
    assert torch.equal(logits(model), before)


def test_a_change_reaches_the_model_in_a_peft_wrapper() -> None:
    from peft import LoraConfig, get_peft_model

    model = build_model().eval()
    plan = plan_rope(model.config, options_of("yarn"), 2048)
    other = built_with(model, plan)
    peft = get_peft_model(model, LoraConfig(r=Adapter().rank, target_modules="all-linear")).eval()
    change_rope(peft, plan)
    assert torch.equal(logits(peft), logits(other))


@pytest.mark.parametrize("kind", KINDS)
def test_a_trial_ends(kind: str) -> None:
    model = build_model(kind, **KINDS[kind]).eval()
    before, config = logits(model), model.config.to_dict()
    plan = plan_rope(model.config, options_of("yarn"), 2048)
    with tried_rope(model, plan):
        tried = logits(model)
        assert model.config.to_dict() == config
    assert torch.equal(tried, logits(built_with(model, plan)))
    assert torch.equal(logits(model), before)
    with pytest.raises(KeyError), tried_rope(model, plan):
        raise KeyError
    assert torch.equal(logits(model), before)


def read_in_pieces(model: Any, length: int, piece: int) -> torch.Tensor:
    from transformers import DynamicCache

    ids = (torch.arange(length)[None] * 7) % 250 + 3
    cache, parts = DynamicCache(config=model.config), []
    with torch.no_grad():
        for start in range(0, length, piece):
            parts.append(model(ids[:, start : start + piece], past_key_values=cache).logits)
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
@pytest.mark.parametrize("method", ["dynamic", "longrope"])
def test_held_a_text_in_pieces_reads_like_the_whole(kind: str, method: str) -> None:
    if (kind, method) in UNABLE:
        pytest.skip("this transformers cannot read such a model")
    model = build_model(kind, **KINDS[kind]).eval()
    plan = plan_rope(model.config, options_of(method, model.config), 2048)
    model = built_with(model, plan)
    whole = logits(model, 1200)
    apart = read_in_pieces(model, 1200, 300)
    assert (apart - whole).abs().max() > 1e-4, "the frequencies change on the way, which holding is there for"
    model = built_with(model, plan)
    with held_rope(model, 1200):
        torch.testing.assert_close(read_in_pieces(model, 1200, 300), whole, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(logits(model, 1200), whole, atol=1e-6, rtol=1e-5)
    assert torch.equal(logits(model, 100), logits(built_with(model, plan), 100))


def test_holding_leaves_other_types_and_models_without_rotary_positions_alone() -> None:
    for model in (build_model(), build_model("gpt2")):
        before = logits(model.eval(), 100)
        modules = list(model.modules())
        with held_rope(model, 400):
            assert torch.equal(logits(model, 100), before)
            assert list(model.modules()) == modules


def test_a_scale_that_attention_layers_took_from_the_old_values_is_set_anew() -> None:
    """DeepSeek's attention multiplies its scores by mscale squared, a number it computes when it is built."""
    shape = {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 16,
    }
    shape |= {
        "num_key_value_heads": 4,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
    }
    model = build_model("deepseek_v3", **shape).eval()
    before = logits(model)
    plan = plan_rope(model.config, options_of("yarn", yarn=Yarn(mscale=1.0, mscale_all_dim=0.5)), 2048)
    other = built_with(model, plan)
    assert other.model.layers[0].self_attn.scaling > model.model.layers[0].self_attn.scaling
    with tried_rope(model, plan):
        assert torch.equal(logits(model), logits(other))
    assert torch.equal(logits(model), before)
    change_rope(model, plan)
    assert torch.equal(logits(model), logits(other))


def test_a_model_without_rotary_modules_cannot_be_changed() -> None:
    plan = plan_rope(build_model().config, options_of("yarn"), 2048)
    with pytest.raises(RunError, match="not in modules of their own"):
        change_rope(build_model("gpt2"), plan)
