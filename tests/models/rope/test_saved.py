"""From a plan to a directory to a fresh process of plain transformers: the same frequencies to the last bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alignkit.config.rope import RopeOptions, Yarn
from alignkit.config.sections import Adapter, Model
from alignkit.errors import RequestError
from alignkit.evaluation.inference import context_length as model_context
from alignkit.models.adapters import attach, save_adapter
from alignkit.models.context import context_length
from alignkit.models.loading import Loaded, load, load_config
from alignkit.models.locating import from_name
from alignkit.models.rope import plan_rope
from alignkit.models.saving import save_model
from tests.models.rope import readers
from tests.models.rope.configs import METHODS, SEVERAL_TYPES_OF_LONGROPE, computed, options_of
from tests.tiny import save_tiny

FRESH = """
import json, sys
import torch
from transformers import AutoModelForCausalLM
answer = {}
for place in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
    rotary = model.model.rotary_emb
    ids = (torch.arange(600)[None] * 7) % 250 + 3
    with torch.no_grad():
        logits = model(ids).logits[0, ::50, :8].double().tolist()
    buffers = {name: [x.hex() for x in value.double().tolist()] for name, value in rotary.named_buffers()}
    factors = {name: float(value).hex() for name, value in vars(rotary).items() if name.endswith("attention_scaling")}
    answer[place] = {"buffers": buffers, "factors": factors, "logits": logits}
print(json.dumps(answer))
"""
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    "phi3": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e4}, "original_max_position_embeddings": 512},
    "gemma3_text": {"head_dim": 8, "num_hidden_layers": 6, "sliding_window": 128},
}
CASES = [
    (kind, method)
    for kind in KINDS
    for method in METHODS
    if (kind == "llama" or method in ("yarn", "longrope", "ntk"))
    and ((kind, method) != ("gemma3_text", "longrope") or SEVERAL_TYPES_OF_LONGROPE)
]


def fresh(*places: Path) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", FRESH, *map(str, places)], capture_output=True, text=True, check=True)
    return {place.name: json.loads(done.stdout.splitlines()[-1])[str(place)] for place in places}


def loaded_with(place: Path, method: str, target: int = 2048, **changes: Any) -> Loaded:
    section = Model(name=str(place), dtype="fp32")
    config = load_config(section, from_name(str(place)))
    return load(section, rope=plan_rope(config, options_of(method, config, **changes), target))


def logits(model: Any) -> torch.Tensor:
    ids = (torch.arange(600)[None] * 7) % 250 + 3
    with torch.no_grad():
        found: torch.Tensor = model(ids).logits
    return found


def test_a_fresh_process_of_plain_transformers_computes_the_same(tmp_path: Path) -> None:
    models = {}
    for kind, changes in KINDS.items():
        save_tiny(tmp_path / kind, kind, **{"layers": changes.get("num_hidden_layers", 2), **_without_layers(changes)})
    for kind, method in CASES:
        models[f"{kind}-{method}"] = loaded = loaded_with(tmp_path / kind, method)
        assert loaded.rope is not None and loaded.rope.method == method
        logits(loaded.model)  # dynamic and longrope have moved on when the model is saved
        save_model(loaded.model, loaded.tokenizer, tmp_path / "saved" / f"{kind}-{method}")
    for first, second in (("yarn", "yarn"), ("llama3", "yarn"), ("yarn", "linear"), ("longrope", "ntk")):
        name = f"llama-{first}-{second}"  # what is saved is stretched on
        models[name] = loaded = loaded_with(tmp_path / "saved" / f"llama-{first}", second, 4096)
        save_model(loaded.model, loaded.tokenizer, tmp_path / "saved" / name)
    found = fresh(*(tmp_path / "saved" / name for name in models))
    plain = {kind: logits(load(Model(name=str(tmp_path / kind), dtype="fp32")).model) for kind in KINDS}
    for name, loaded in models.items():
        rotary = loaded.model.model.rotary_emb
        logits(loaded.model)
        buffers = dict(rotary.named_buffers())
        assert found[name]["buffers"].keys() == buffers.keys()
        for one, value in buffers.items():
            assert found[name]["buffers"][one] == [x.hex() for x in value.double().tolist()], f"{name} {one}"
        for one, factor in found[name]["factors"].items():
            assert factor == float(getattr(rotary, one)).hex(), f"{name} {one}"
        ours = logits(loaded.model)[0, ::50, :8].double()
        np.testing.assert_allclose(found[name]["logits"], ours.numpy(), atol=1e-5)
        assert (ours - plain[name.split("-")[0]][0, ::50, :8]).abs().max() > 1e-5, f"{name} changed nothing"


def _without_layers(changes: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in changes.items() if key != "num_hidden_layers"}


@pytest.mark.parametrize("method", METHODS)
def test_older_names_say_the_same_and_are_enough_alone(tmp_path: Path, method: str) -> None:
    save_tiny(tmp_path / "base", rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    loaded = loaded_with(tmp_path / "base", method)
    save_model(loaded.model, loaded.tokenizer, tmp_path / "saved")
    values = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert {**readers.older_transformers(values)} == {**values["rope_parameters"]}
    from transformers import AutoConfig

    both = AutoConfig.from_pretrained(tmp_path / "saved")
    assert "rope_theta" not in vars(both), "a second base that nobody would keep up to date"
    del values["rope_parameters"]
    (tmp_path / "saved" / "config.json").write_text(json.dumps(values))
    alone = AutoConfig.from_pretrained(tmp_path / "saved")
    assert alone.rope_parameters == both.rope_parameters == loaded.model.config.rope_parameters
    assert type(alone.max_position_embeddings) is int


def test_older_names_of_gemma_3_and_gpt_neox(tmp_path: Path) -> None:
    from transformers import AutoConfig

    for kind, changes in (("gemma3_text", {"head_dim": 8, "layers": 6}), ("gpt_neox", {"rotary_pct": 0.5})):
        save_tiny(tmp_path / kind, kind, **changes)
        loaded = loaded_with(tmp_path / kind, "yarn", 4096)
        save_model(loaded.model, loaded.tokenizer, tmp_path / f"{kind}-saved")
        file = tmp_path / f"{kind}-saved" / "config.json"
        values = json.loads(file.read_text())
        del values["rope_parameters"]
        file.write_text(json.dumps(values))
        assert AutoConfig.from_pretrained(file.parent).rope_parameters == loaded.model.config.rope_parameters


@pytest.mark.parametrize("method", [method for method in METHODS if method != "dynamic"])
@pytest.mark.parametrize("explicit", [False, True])
def test_vllm_and_llama_cpp_read_the_same_frequencies(tmp_path: Path, method: str, explicit: bool) -> None:
    """The converse stands in the plan's notes: where they part, it says so."""
    save_tiny(tmp_path / "base", hidden_size=128, rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    changes = {"yarn": Yarn(attention_factor=1.3)} if explicit else {}
    loaded = loaded_with(tmp_path / "base", method, **changes)
    save_model(loaded.model, loaded.tokenizer, tmp_path / "saved")
    values = json.loads((tmp_path / "saved" / "config.json").read_text())
    inverse, attention = computed(loaded.model.config, 2048)
    theirs = readers.vllm(values, 32, long=True)
    np.testing.assert_allclose(theirs[0], inverse, rtol=2e-6)
    assert theirs[1] == pytest.approx(attention)
    assert loaded.rope is not None
    if not any("llama.cpp" in note for note in loaded.rope.notes):
        other = readers.llama_cpp(values, 32)
        np.testing.assert_allclose(other[0], inverse, rtol=2e-6)
        assert other[1] == pytest.approx(attention)


def test_an_adapter_carries_its_positions_and_so_do_those_on_top_of_it(tmp_path: Path) -> None:
    save_tiny(tmp_path / "base")
    first = loaded_with(tmp_path / "base", "yarn")
    section = Adapter(kind="lora", rank=2)
    peft = attach(first, section, seed=0)
    torch.manual_seed(0)
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1)
    wanted = logits(peft.eval())
    save_adapter(peft, tmp_path / "one", first.source, tokenizer=first.tokenizer, rope=first.rope)
    again = load(Model(name=str(tmp_path / "one"), dtype="fp32"))
    assert again.rope == first.rope
    torch.testing.assert_close(logits(again.model), wanted, atol=1e-5, rtol=1e-5)
    assert context_length(again.source) == model_context(again.model) == 2048
    assert context_length(from_name(str(tmp_path / "base"))) == 512
    second = attach(again, section, seed=1)
    save_adapter(second, tmp_path / "two", again.source, tokenizer=again.tokenizer)
    on_top = load(Model(name=str(tmp_path / "two"), dtype="fp32"))
    assert on_top.rope == first.rope and context_length(on_top.source) == 2048
    torch.testing.assert_close(logits(on_top.model), wanted, atol=1e-5, rtol=1e-5)
    config = load_config(Model(name=str(tmp_path / "two")), on_top.source)
    assert plan_rope(config, RopeOptions(), 4096).factor == 8.0
    note = json.loads((tmp_path / "one" / "alignkit.json").read_text())
    note["rope"]["strange"] = 1
    (tmp_path / "one" / "alignkit.json").write_text(json.dumps(note))
    with pytest.raises(RequestError, match="cannot be read"):
        load(Model(name=str(tmp_path / "one")))


def test_a_dynamic_model_takes_its_target_everywhere(tmp_path: Path) -> None:
    save_tiny(tmp_path / "base")
    loaded = loaded_with(tmp_path / "base", "dynamic")
    assert model_context(loaded.model) == 2048
    save_model(loaded.model, loaded.tokenizer, tmp_path / "saved")
    assert context_length(from_name(str(tmp_path / "saved"))) == 2048
