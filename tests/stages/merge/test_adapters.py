"""An adapter as a source of tensors on its base: the weights that PEFT merges, whatever the chunks."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from alignkit.errors import RequestError
from alignkit.models.locating import from_name
from alignkit.stages.merge.adapters import AdaptedModel, open_adapted
from tests.tiny import build_model, build_tokenizer, save_tiny


def randomise(peft: Any, seed: int = 0) -> None:
    """Give everything that an adapter trains values of its own, B and whole modules included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(parameter * (1 + 0.1 * noise) if "magnitude" in name else 0.2 * noise)


def make(tmp_path: Path, kind: str = "llama", seed: int = 0, shape: dict[str, Any] | None = None, **lora: Any) -> Any:
    """A base on disk and a random adapter on it, saved by PEFT; returns base, adapter and the PeftModel."""
    from peft import LoraConfig, get_peft_model

    base = tmp_path / "base"
    if not base.exists():
        save_tiny(base, kind, **(shape or {}))
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(**({"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM"} | lora))
    torch.manual_seed(seed)
    peft = get_peft_model(model, config)
    randomise(peft, seed)
    adapter = tmp_path / f"adapter{seed}"
    peft.save_pretrained(str(adapter))
    return base, adapter, peft


def merged(peft: Any) -> dict[str, np.ndarray]:
    """What PEFT makes of it: name of a parameter to its values."""
    model = peft.merge_and_unload()
    return {name: value.detach().float().numpy() for name, value in model.state_dict().items()}


def require_equal(model: AdaptedModel, wanted: dict[str, np.ndarray], step: int = 1 << 18) -> None:
    for name, value in wanted.items():
        if name not in model.tensors:
            assert name == "lm_head.weight" and model.config.get("tie_word_embeddings", True), name
            continue
        count = value.size
        parts = [model.read(name, at, min(at + step, count)) for at in range(0, count, step)]
        found = np.concatenate(parts).reshape(model.shape(name))
        assert found.shape == value.shape and found.dtype == np.float32
        np.testing.assert_allclose(found, value, rtol=0, atol=1e-6, err_msg=name)


LORAS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["q_proj", "down_proj", "lm_head"]},
    "rslora": {"target_modules": "all-linear", "use_rslora": True},
    "patterns": {
        "target_modules": "all-linear",
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 7},
        "alpha_pattern": {"q_proj": 3, "down_proj": 11},
    },
    "dora": {"target_modules": "all-linear", "use_dora": True},
    "whole": {"target_modules": ["v_proj"], "modules_to_save": ["norm", "lm_head"]},
    "embedding": {"target_modules": ["embed_tokens", "k_proj"]},
    "rows": {"target_modules": ["o_proj"], "trainable_token_indices": [0, 3, 258]},
    "regex": {"target_modules": r".*layers\.1\..*_proj"},
}


@pytest.mark.parametrize("lora", LORAS.values(), ids=LORAS)
def test_llama_equals_peft(tmp_path: Path, lora: dict[str, Any]) -> None:
    _, adapter, peft = make(tmp_path, **lora)
    require_equal(open_adapted(from_name(str(adapter))), merged(peft))


@pytest.mark.parametrize(
    ("kind", "lora"),
    [
        ("gpt2", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
        ("gpt2", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "use_dora": True}),
        ("gpt2", {"target_modules": ["c_attn"], "bias": "lora_only", "fan_in_fan_out": True}),
        ("gpt2", {"target_modules": ["c_attn", "c_proj"], "lora_bias": True, "fan_in_fan_out": True}),
        ("qwen2", {"target_modules": ["q_proj", "v_proj"], "bias": "lora_only"}),
        ("qwen2", {"target_modules": ["q_proj", "v_proj"], "lora_bias": True}),
        ("mistral", {"target_modules": ["gate_proj", "q_proj"]}),
        ("mixtral", {"target_modules": ["q_proj", "o_proj"]}),
    ],
    ids=["gpt2", "gpt2-dora", "gpt2-bias", "gpt2-lora-bias", "qwen2-bias", "qwen2-lora-bias", "mistral", "mixtral"],
)
def test_other_architectures_equal_peft(tmp_path: Path, kind: str, lora: dict[str, Any]) -> None:
    shape = {"num_local_experts": 4} if kind == "mixtral" else {}
    _, adapter, peft = make(tmp_path, kind, shape=shape, **lora)
    wanted = merged(peft)
    if kind == "mixtral":  # transformers holds the experts as one tensor, which no adapter here changes
        wanted = {name: value for name, value in wanted.items() if "self_attn" in name}
    require_equal(open_adapted(from_name(str(adapter))), wanted)


@pytest.mark.parametrize("lora", [{}, {"use_dora": True}], ids=["lora", "dora"])
@pytest.mark.parametrize("step", [1, 7, 97, 1000])
def test_any_stretch_is_the_same_numbers(tmp_path: Path, lora: dict[str, Any], step: int) -> None:
    _, adapter, _ = make(tmp_path, "gpt2", target_modules=["c_attn", "wte"] if not lora else ["c_attn"], **lora)
    model = open_adapted(from_name(str(adapter)))
    for name in ("transformer.h.0.attn.c_attn.weight", "transformer.wte.weight"):
        count = model.tensors[name].count
        whole = model.read(name, 0, count)
        parts = [model.read(name, at, min(at + step, count)) for at in range(0, min(count, 40 * step), step)]
        joined = np.concatenate(parts)
        np.testing.assert_allclose(joined, whole[: len(joined)], rtol=0, atol=1e-6)
        assert model.read(name, 5, 5).shape == (0,)


def test_what_is_not_changed_is_the_base_to_the_byte(tmp_path: Path) -> None:
    base, adapter, _ = make(tmp_path, target_modules=["q_proj"])
    model = open_adapted(from_name(str(adapter)))
    stored = load_file(base / "model.safetensors")
    assert model.changed == {f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1)}
    for name, value in stored.items():
        if name not in model.changed:
            assert model.raw(name, 0, value.size) == value.tobytes()


def test_reading_leaves_the_adapter_as_it_is(tmp_path: Path) -> None:
    _, adapter, _ = make(tmp_path, target_modules=["q_proj", "embed_tokens"])
    model = open_adapted(from_name(str(adapter)))
    for name in model.changed:
        first = model.read(name, 0, model.tensors[name].count)
        kept = first.copy()
        first *= 0  # the caller owns what it was given
        assert np.array_equal(model.read(name, 0, len(kept)), kept)


def test_threads_read_the_same(tmp_path: Path) -> None:
    _, adapter, _ = make(tmp_path, "gpt2", target_modules=["c_attn"], use_dora=True)
    name = "transformer.h.1.attn.c_attn.weight"
    alone = open_adapted(from_name(str(adapter))).read(name, 0, 32 * 96)
    model, found = open_adapted(from_name(str(adapter))), []
    threads = [threading.Thread(target=lambda: found.append(model.read(name, 0, 32 * 96))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and all(np.array_equal(one, alone) for one in found)


# --- tied embeddings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lora", "tied"),
    [
        ({"target_modules": ["q_proj"]}, True),
        ({"target_modules": ["q_proj"], "trainable_token_indices": [1, 5]}, True),
        ({"target_modules": ["embed_tokens"]}, False),
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, False),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, False),
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}, False),
        ({"target_modules": ["q_proj", "lm_head"]}, False),
    ],
    ids=["none", "rows", "lora-embedding", "whole-embedding", "whole-head", "both", "lora-head"],
)
def test_a_tie_breaks_where_one_side_alone_was_trained(tmp_path: Path, lora: dict[str, Any], tied: bool) -> None:
    from alignkit.models.merging import fold

    _, adapter, peft = make(tmp_path, "llama", shape={"tie_word_embeddings": True}, **lora)
    peft.eval()
    wanted = {name: value.float().numpy() for name, value in fold(peft).state_dict().items()}
    model = open_adapted(from_name(str(adapter)))
    assert ("lm_head.weight" not in model.tensors) is tied
    assert model.config.get("tie_word_embeddings", True) is tied
    require_equal(model, wanted)


# --- vocabularies -------------------------------------------------------------------------------------------------


def test_new_tokens_as_alignkit_saves_them(tmp_path: Path) -> None:
    """An adapter with rows of its own for tokens that the base does not have: equal to what alignkit loads."""
    from peft import LoraConfig, get_peft_model

    from alignkit.config.sections import Model
    from alignkit.models.adapter_files import save_adapter
    from alignkit.models.loading import load
    from alignkit.models.merging import fold
    from alignkit.models.vocabulary import fit_vocabulary

    base = save_tiny(tmp_path / "base")
    model, tokenizer = build_model(), build_tokenizer()
    tokenizer.add_tokens(["<|new|>", "<|newer|>"], special_tokens=True)
    vocabulary = fit_vocabulary(model, tokenizer, added=["<|new|>", "<|newer|>"], written=["<|new|>", "<|newer|>"])
    rows = {"model.embed_tokens": list(vocabulary.trained), "lm_head": list(vocabulary.trained)}
    peft = get_peft_model(
        model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", trainable_token_indices=rows)
    )
    randomise(peft)
    adapter = save_adapter(peft, tmp_path / "adapter", from_name(str(base)), tokenizer=tokenizer, vocabulary=vocabulary)
    loaded = load(Model(name=str(adapter), dtype="fp32"), device="cpu")
    found = open_adapted(from_name(str(adapter)))
    assert found.config["vocab_size"] == 261 and found.shape("model.embed_tokens.weight") == (261, 32)
    wanted = {name: value.float().numpy() for name, value in fold(loaded.model).state_dict().items()}
    require_equal(found, wanted)
    require_equal(found, wanted, step=33)


def test_an_embedding_that_peft_saved_larger(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = save_tiny(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(270)
    peft = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    randomise(peft)
    peft.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=True)
    found = open_adapted(from_name(str(tmp_path / "adapter")))
    assert found.config["vocab_size"] == 270
    require_equal(found, merged(peft))


# --- stacks and spellings -----------------------------------------------------------------------------------------


def test_an_adapter_on_an_adapter(tmp_path: Path) -> None:
    from alignkit.config.sections import Model
    from alignkit.models.loading import load
    from alignkit.models.merging import fold

    make(tmp_path, target_modules=["q_proj", "up_proj"])
    _, upper, _ = make(tmp_path, seed=1, target_modules=["q_proj", "o_proj"])
    config = json.loads((upper / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "adapter0")
    (upper / "adapter_config.json").write_text(json.dumps(config))
    loaded = load(Model(name=str(upper), dtype="fp32"), device="cpu")
    wanted = {name: value.float().numpy() for name, value in fold(loaded.model).state_dict().items()}
    require_equal(open_adapted(from_name(str(upper))), wanted)


def test_a_base_and_an_adapter_written_with_a_plus(tmp_path: Path) -> None:
    _, adapter, peft = make(tmp_path, target_modules=["q_proj"])
    other = save_tiny(tmp_path / "other", seed=5)
    (tmp_path / "base").rename(tmp_path / "gone")
    source = from_name(f"{other}+{adapter}")
    assert source.adapter and source.parent is not None and source.parent.path == other
    name = "model.layers.0.self_attn.q_proj.weight"
    delta = merged(peft)[name] - load_file(tmp_path / "gone" / "model.safetensors")[name]
    wanted = load_file(other / "model.safetensors")[name] + delta
    np.testing.assert_allclose(open_adapted(source).read(name, 0, 1024).reshape(32, 32), wanted, atol=1e-6)
    with pytest.raises(RequestError, match=r"holds no adapter_config\.json"):
        from_name(f"{other}+{other}")
    with pytest.raises(RequestError, match="does not exist"):
        from_name(f"{other}+{tmp_path}/nowhere")
    with pytest.raises(RequestError, match="both sides"):
        from_name(f"{other}+")


def test_a_checkpoint_without_the_root_module(tmp_path: Path) -> None:
    """GPT-2 as its authors published it: the adapter says transformer.h.0, the file h.0."""
    base, adapter, peft = make(tmp_path, "gpt2", target_modules=["c_attn"], fan_in_fan_out=True)
    stored = load_file(base / "model.safetensors")
    bare = {name.removeprefix("transformer."): value for name, value in stored.items()}
    save_file(bare, base / "model.safetensors", metadata={"format": "pt"})
    model = open_adapted(from_name(str(adapter)))
    wanted = merged(peft)["transformer.h.1.attn.c_attn.weight"]
    found = model.read("h.1.attn.c_attn.weight", 0, wanted.size).reshape(wanted.shape)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


# --- refusals -----------------------------------------------------------------------------------------------------


def edit(adapter: Path, **changes: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def drop(adapter: Path, end: str) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    gone = next(name for name in tensors if name.endswith(end))
    save_file({name: value for name, value in tensors.items() if name != gone}, adapter / "adapter_model.safetensors")


def rename(adapter: Path, old: str, new: str) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({name.replace(old, new): value for name, value in tensors.items()}, adapter / "adapter_model.safetensors")


BAD: list[tuple[str, Callable[[Path], object], str]] = [
    ("kind", lambda at: edit(at, peft_type="IA3"), "kind IA3"),
    ("loha", lambda at: edit(at, peft_type="LOHA"), "kind LOHA"),
    ("replication", lambda at: edit(at, layer_replication=[[0, 2]]), "repeats layers"),
    ("parameters", lambda at: edit(at, target_parameters=["experts.down_proj"]), "target_parameters"),
    ("activated", lambda at: edit(at, alora_invocation_tokens=[1]), "activated LoRA"),
    ("qalora", lambda at: edit(at, use_qalora=True), "QALoRA"),
    ("pissa", lambda at: edit(at, init_lora_weights="pissa_niter_4"), "started inside its base"),
    ("one factor", lambda at: drop(at, "lora_A.weight"), "one of the two factors"),
    ("no magnitudes", lambda at: edit(at, use_dora=True), "without the magnitudes"),
    ("another module", lambda at: rename(at, "q_proj", "w_proj"), "does not have"),
    ("another shape", lambda at: rename(at, "q_proj", "k_proj"), "k_proj.weight is"),
    ("unknown tensor", lambda at: rename(at, "lora_B.weight", "lora_C.weight"), "no part of a LoRA"),
    ("strange tensor", lambda at: rename(at, "lora_B.weight", "sigma"), "one of the two factors"),
    ("no weights", lambda at: (at / "adapter_model.safetensors").unlink(), "holds neither"),
    ("cut short", lambda at: (at / "adapter_model.safetensors").write_bytes(b"12345678"), "is no safetensors file"),
]


@pytest.mark.parametrize(("damage", "says"), [(one[1], one[2]) for one in BAD], ids=[one[0] for one in BAD])
def test_what_cannot_be_added_is_refused_by_name(tmp_path: Path, damage: Callable[[Path], object], says: str) -> None:
    _, adapter, _ = make(tmp_path, target_modules=["q_proj"])
    damage(adapter)
    with pytest.raises(RequestError) as caught:
        open_adapted(from_name(str(adapter)), where="merge.models[1].name")
    assert says in str(caught.value)
    assert all(fault.where == "merge.models[1].name" and str(adapter) in fault.what for fault in caught.value.faults)


def test_an_adapter_of_a_quantized_base_is_told(tmp_path: Path) -> None:
    base, adapter, _ = make(tmp_path, target_modules=["q_proj"])
    noted = {"base": {"kind": "directory", "path": str(base)}, "quantization": {"kind": "nf4"}}
    (adapter / "alignkit.json").write_text(json.dumps(noted))
    assert "nf4" in open_adapted(from_name(str(adapter))).notes[0]


# --- as parents of a merge ----------------------------------------------------------------------------------------


def test_adapters_are_parents_of_a_whole_model_merge(tmp_path: Path) -> None:
    """Two adapters and their base through the recipe: task arithmetic on the weights that PEFT merges."""
    import alignkit

    base, first, one = make(tmp_path, target_modules=["q_proj", "down_proj"])
    _, second, two = make(tmp_path, seed=1, target_modules=["q_proj", "v_proj"], use_dora=True)
    result = alignkit.train(
        "merge",
        [
            f"merge.models=[{first},{base}+{second}]",
            f"merge.base={base}",
            "merge.method=task_arithmetic",
            "merge.weight=0.5",
            f"run.root={tmp_path / 'runs'}",
        ],
    )
    stored, found = load_file(base / "model.safetensors"), load_file(Path(result["path"]) / "model.safetensors")
    ours, theirs = merged(one), merged(two)
    for name, value in stored.items():
        wanted = value + 0.5 * (ours[name] - value) + 0.5 * (theirs[name] - value)
        np.testing.assert_allclose(found[name], wanted, atol=1e-6, err_msg=name)
