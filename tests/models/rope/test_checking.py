"""What cannot work is said in a sentence, from config.json alone and without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from alignkit.config.rope import LongRope
from alignkit.errors import RequestError
from alignkit.models.rope import describe, read_rope, rope_faults
from alignkit.models.rope.reading import longest_input
from tests.models.rope.configs import METHODS, config_of, options_of, stretch

LLAMA = {"model_type": "llama", "hidden_size": 256, "num_attention_heads": 4, "max_position_embeddings": 1024}


def said(config: Any, target: int, method: str = "yarn", **changes: Any) -> str:
    return "\n".join(str(fault) for fault in rope_faults(config, options_of(method, config, **changes), target))


@pytest.mark.parametrize(
    ("kind", "changes", "word"),
    [
        ("gpt2", {}, "absolute positions"),
        ("opt", {}, "absolute positions"),
        ("gpt_bigcode", {}, "absolute positions"),
        ("bloom", {}, "ALiBi"),
        ("mpt", {}, "ALiBi"),
        ("falcon", {"alibi": True}, "ALiBi"),
        ("mamba", {}, "carries a state"),
        ("mamba2", {}, "carries a state"),
        ("rwkv", {}, "carries a state"),
        ("jamba", {}, "no positions at all"),
        ("gptj", {}, "fixed base"),
        ("granitemoehybrid", {"position_embedding_type": "nope"}, "nope"),
    ],
)
def test_architectures_without_rotary_positions_are_refused(kind: str, changes: dict[str, Any], word: str) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(kind, **changes)
    for form in (config, config.to_dict()):
        text = said(form, 4096)
        assert word in text and "rotary positions" in text, text
        assert text.startswith("model.name: ") and text.count("\n") == 0
        assert longest_input(form) is None


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral", "falcon", "gpt_neox", "phi3", "gemma3_text", "bamba"])
def test_architectures_with_rotary_positions_are_known_by_either_form(kind: str) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(kind)
    target = 2 * read_rope(config).present
    assert said(config, target) == said(config.to_dict(), target) == ""
    bare = {key: value for key, value in config.to_dict().items() if not key.startswith("rope")}
    assert said(bare, target) == "", "the code of transformers says so where config.json does not"


def test_a_target_that_is_not_above_the_present_length() -> None:
    for target in (512, 1024):
        assert f"takes 1024 tokens already, which {target} is not above" in said(LLAMA, target)
    stretched = {**LLAMA, "max_position_embeddings": 4096, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}
    assert "4096 tokens already, linear included" in said(stretched, 2048)
    assert said(stretched, 8192) == ""


def test_factors_that_contradict_lengths() -> None:
    text = said(LLAMA, 4096, factor=2.0)
    assert text.startswith("context.factor: 2 times 1024 tokens do not reach the 4096")
    assert "Write 4 or more" in text
    assert said(LLAMA, 4096, factor=4.0) == said(LLAMA, 4096, factor=5.0) == ""
    stretched = {**LLAMA, "max_position_embeddings": 2048, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    assert "stretched by 2 now" in said(stretched, 4096, "linear", factor=3.0)
    assert said(stretched, 4096, "linear", factor=4.0) == ""
    assert "longrope is stretched by the factors" in said(LLAMA, 4096, "longrope", factor=4.0)


def test_an_original_window_beyond_the_target() -> None:
    assert "context.original: an original window of 8192" in said(LLAMA, 4096, original=8192)


def test_a_base_that_is_not_larger() -> None:
    config = {**LLAMA, "rope_theta": 500000.0}
    assert "10000 is not above the base that the model has, 500000" in said(config, 4096, "abf", theta=1e4)


def test_longrope_factors_of_another_number() -> None:
    factors = LongRope(long_factor=[2.0] * 16, short_factor=[1.0] * 32)
    text = said(LLAMA, 4096, "longrope", longrope=factors)
    assert text.startswith("context.longrope.long_factor: 16 factors, and the model rotates 32 pairs")
    assert text.count("\n") == 0


@pytest.mark.parametrize("first", ["linear", "yarn", "llama3", "longrope"])
def test_dynamic_does_not_go_on_top_of_another_type(first: str) -> None:
    config = config_of()
    stretch(config, first, 2048)
    text = said(config, 4096, "dynamic")
    assert f"it is stretched by {first} already" in text and "context.method=ntk" in text


def test_phi_3_and_dynamic() -> None:
    assert "a phi3 model takes none but longrope" in said(config_of("phi3"), 16384, "dynamic")


@pytest.mark.parametrize("method", [method for method in METHODS if method not in ("linear", "ntk", "abf")])
def test_pairs_that_stand_still_have_no_form_in_other_methods(method: str) -> None:
    text = said(config_of("gemma4_text"), 4096, method)
    assert "rotates some of its pairs only" in text and text.count("\n") == 0


def test_types_that_are_not_known() -> None:
    assert "type axial" in said({**LLAMA, "rope_parameters": {"rope_type": "axial", "rope_theta": 1e4}}, 4096)
    alpha = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 1.0, "alpha": 1000.0}
    assert "dynamic with alpha" in said({**LLAMA, "rope_parameters": alpha}, 4096)


def test_a_window_that_is_not_said() -> None:
    config = {key: value for key, value in LLAMA.items() if key != "max_position_embeddings"} | {"rope_theta": 1e4}
    assert said(config, 4096).startswith("context.original: config.json does not say")
    assert said(config, 4096, original=1024) == ""


def test_every_layer_sliding() -> None:
    parameters = {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    with pytest.raises(RequestError, match="slides over every layer"):
        read_rope({**LLAMA, "rope_parameters": parameters})


def test_older_files_are_read() -> None:
    older = {**LLAMA, "rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}}
    assert describe(older) == "1024 tokens, linear by 4 from 256, theta 500000"
    phi = {**LLAMA, "model_type": "phi3", "original_max_position_embeddings": 512, "rope_theta": 1e4}
    phi["rope_scaling"] = {"type": "su", "short_factor": [1.0] * 32, "long_factor": [2.0] * 32}
    state = read_rope(phi)
    assert (state.layer.kind, state.original, state.present) == ("longrope", 512, 1024)
    neox = {**LLAMA, "model_type": "gpt_neox", "rotary_pct": 0.25, "rotary_emb_base": 20000}
    assert (read_rope(neox).layer.dim, read_rope(neox).layer.theta) == (16, 20000.0)
    gemma = {**LLAMA, "rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear"}}
    gemma["rope_scaling"]["factor"] = 8.0
    assert read_rope(gemma).untouched["sliding_attention"]["rope_theta"] == 1e4
    assert read_rope(gemma).stretched == 8.0
    mla = {**LLAMA, "qk_rope_head_dim": 32, "head_dim": 128, "rope_theta": 1e4}
    assert read_rope(mla).layer.dim == 32
    inner = {"model_type": "several", "text_config": {**LLAMA, "rope_theta": 1e4}}
    assert read_rope(inner).present == 1024


def test_dynamic_takes_more_than_it_has_positions() -> None:
    config = config_of()
    stretch(config, "dynamic", 4096)
    assert config.max_position_embeddings == 1024
    assert longest_input(config) == longest_input(config.to_dict()) == 4096
    assert read_rope(config).trained == 1024
    assert "4096 tokens already, dynamic included" in said(config, 4096, "dynamic")
    assert said(config, 8192, "dynamic") == said(config, 8192, "yarn") == ""


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys\n"
        "from alignkit.config.rope import RopeOptions\n"
        "from alignkit.models.rope import rope_faults\n"
        "import alignkit.models.rope.search\n"
        f"assert not list(rope_faults({LLAMA!r}, RopeOptions(), 4096))\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "numpy"} & set(done.stdout.split())
