"""Loading: the right numbers, on any of the ways a model comes, or a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from alignkit.config.sections import Adapter, Model, Quantization
from alignkit.errors import RequestError
from alignkit.models.adapters import attach, save_adapter
from alignkit.models.attention import VARLEN
from alignkit.models.hardware import choose_attention, choose_dtype, computes_in_bf16
from alignkit.models.loading import load
from alignkit.models.saving import save_model
from tests.models.helpers import load_tiny, logits_of
from tests.tiny import save_tiny

CPU = torch.device("cpu")


@pytest.fixture
def model(tmp_path: Path, tiny_llama: Path) -> Path:
    shutil.copytree(tiny_llama, tmp_path / "model")
    return tmp_path / "model"


def rewrite(model: Path, change: Any) -> None:
    tensors = load_file(model / "model.safetensors")
    change(tensors)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


def test_what_auto_becomes(tiny_llama: Path) -> None:
    loaded = load(Model(name=str(tiny_llama)), device="cpu")
    wanted = torch.bfloat16 if computes_in_bf16(CPU) else torch.float32
    assert loaded.dtype == wanted == loaded.model.dtype
    assert loaded.attention == VARLEN and not loaded.quantized and not loaded.model.training
    assert loaded.resolved["model.attention"] == VARLEN
    assert choose_dtype(Model(name="x", dtype="fp16"), CPU) == torch.float16
    assert load(Model(name=str(tiny_llama), attention="eager"), device="cpu").attention == "eager"


def test_flash_attention_on_a_cpu_is_refused() -> None:
    with pytest.raises(RequestError, match="needs a CUDA device"):
        choose_attention(Model(name="x", attention="flash_attention_2"), CPU, torch.bfloat16)


def test_quantization_on_mps_is_refused(tiny_llama: Path) -> None:
    with pytest.raises(RequestError, match="MPS"):
        load(Model(name=str(tiny_llama)), Quantization(kind="nf4"), device="mps")


def test_missing_tensors_are_named(model: Path) -> None:
    rewrite(model, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(RequestError, match=r"lacks tensors.*model\.layers\.1\.mlp\.up_proj\.weight"):
        load_tiny(model)


def test_unexpected_tensors_are_named(model: Path) -> None:
    rewrite(model, lambda tensors: tensors.update({"model.layers.9.strange.weight": torch.zeros(2)}))
    with pytest.raises(RequestError, match=r"no place for.*model\.layers\.9\.strange\.weight"):
        load_tiny(model)


def test_tensors_of_another_shape_are_named(model: Path) -> None:
    rewrite(model, lambda tensors: tensors.update({"model.norm.weight": torch.zeros(7)}))
    with pytest.raises(RequestError, match=r"model\.norm\.weight"):
        load_tiny(model)


def test_a_tied_head_is_not_missing(tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "tied", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(path / "model.safetensors")
    loaded = load_tiny(path)
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight


def test_weights_cut_short(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-500])
    with pytest.raises(RequestError, match="is cut short"):
        load_tiny(model)


def test_no_tokenizer(model: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (model / file).unlink()
    with pytest.raises(RequestError, match="the tokenizer of"):
        load_tiny(model)


def test_unsafe_weights_are_refused_before_loading(model: Path) -> None:
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "../elsewhere.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(RequestError, match="outside its own directory"):
        load_tiny(model)


def test_pickles_load_only_when_allowed(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    torch.save(tensors, model / "pytorch_model.bin")
    with pytest.raises(RequestError, match="can run code"):
        load_tiny(model)
    assert load(Model(name=str(model), allow_pickle=True, dtype="fp32"), device="cpu").model is not None


def test_a_hub_name_that_is_not_there_is_a_sentence() -> None:
    with pytest.raises(RequestError, match="hub:nobody/nothing could not be read"):
        load(Model(name="hub:nobody/nothing"))


def test_saving_and_loading_keeps_everything(tiny_llama: Path, tmp_path: Path) -> None:
    loaded = load_tiny(tiny_llama)
    loaded.model.generation_config.max_new_tokens = 77
    saved = save_model(loaded.model, loaded.tokenizer, tmp_path / "deep" / "saved")
    again = load_tiny(saved)
    assert torch.equal(logits_of(again), logits_of(loaded))
    assert again.model.generation_config.max_new_tokens == 77
    assert again.tokenizer.chat_template == loaded.tokenizer.chat_template
    text = (saved / "config.json").read_text()
    assert VARLEN not in text and str(tmp_path) not in text and str(tiny_llama) not in text
    assert [entry.name for entry in saved.parent.iterdir()] == ["saved"]
    assert {oct(file.stat().st_mode & 0o044) for file in saved.iterdir()} == {"0o44"}


def test_saving_over_a_result_that_stands(tiny_llama: Path, tmp_path: Path) -> None:
    loaded = load_tiny(tiny_llama)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "old").write_text("")
    save_model(loaded.model, loaded.tokenizer, tmp_path / "saved")
    assert not (tmp_path / "saved" / "old").exists() and (tmp_path / "saved" / "config.json").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["saved"]


def test_a_save_that_fails_leaves_the_old_result(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_tiny(tiny_llama)
    save_model(loaded.model, loaded.tokenizer, tmp_path / "saved")
    monkeypatch.setattr(loaded.tokenizer, "save_pretrained", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_model(loaded.model, loaded.tokenizer, tmp_path / "saved")
    assert load_tiny(tmp_path / "saved").model is not None
    assert [entry.name for entry in tmp_path.iterdir()] == ["saved"]


def test_an_adapter_without_safetensors_or_that_does_not_fit(tiny_llama: Path, tmp_path: Path) -> None:
    loaded = load_tiny(tiny_llama)
    peft = attach(loaded, Adapter(kind="lora", rank=2), seed=0)
    directory = save_adapter(peft, tmp_path / "adapter", loaded.source)
    tensors = load_file(directory / "adapter_model.safetensors")
    first = next(iter(tensors))
    save_file({k: v for k, v in tensors.items() if k != first}, directory / "adapter_model.safetensors")
    with pytest.raises(RequestError, match=r"does not fit its base.*it lacks"):
        load_tiny(directory)
    save_file({**tensors, first: torch.zeros(3, 3)}, directory / "adapter_model.safetensors")
    with pytest.raises(RequestError, match="does not fit its base"):
        load_tiny(directory)
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")
    with pytest.raises(RequestError, match="Only safetensors"):
        load_tiny(directory)
