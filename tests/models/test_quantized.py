"""4 and 8 bits: trainable on any CPU, read back as the forward pass sees them, merged without loss of the adapter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.config.sections import Adapter, Quantization
from alignkit.errors import RequestError, RunError
from alignkit.models.adapters import attach, save_adapter
from alignkit.models.merging import Reference, drift, fold
from alignkit.models.quantized import dequantized_weight, describe, is_quantized, is_quantized_linear
from alignkit.models.saving import save_model
from tests.models.helpers import load_tiny, logits_of, train_a_little
from tests.tiny import save_tiny

KINDS = [
    Quantization(kind="nf4"),
    Quantization(kind="nf4", double=False),
    Quantization(kind="fp4"),
    Quantization(kind="int8"),
]


@dataclass
class Row:
    input_ids: list[int]
    labels: list[int]


@pytest.fixture(scope="module")
def wide_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough that bitsandbytes' inference layout of 4-bit weights (blocks of 64) applies."""
    changes = {"hidden_size": 128, "intermediate_size": 256, "initializer_range": 0.1}
    return save_tiny(tmp_path_factory.mktemp("wide") / "llama", **changes)


def rows(tokenizer: Any) -> list[Row]:
    ids = tokenizer("a row to measure the drift on")["input_ids"]
    return [Row(ids, [-100] * 5 + ids[5:]), Row(ids[::-1], ids[::-1])]


@pytest.mark.parametrize("quantization", KINDS, ids=str)
def test_what_is_read_back_is_what_the_forward_pass_uses(wide_llama: Path, quantization: Quantization) -> None:
    loaded = load_tiny(wide_llama, quantization)
    assert loaded.quantized and describe(loaded.model)["kind"] == quantization.kind
    layer = loaded.model.model.layers[0].mlp.up_proj
    assert is_quantized_linear(layer)
    x = torch.randn(3, 128)
    wanted = torch.nn.functional.linear(x, dequantized_weight(layer))
    loose = 2e-2 if quantization.kind == "int8" else 1e-5  # int8 rounds its inputs too
    torch.testing.assert_close(layer(x).float(), wanted, rtol=0, atol=loose * float(wanted.abs().max()))
    plain = fold(loaded.model)
    assert not is_quantized(plain) and type(plain.model.layers[0].mlp.up_proj) is torch.nn.Linear


def test_an_evaluation_in_between_does_not_stop_gradients(wide_llama: Path) -> None:
    """The AVX512-BF16 trap: on such a CPU this fails without the cure in `keep_trainable_on_cpu`."""
    loaded = load_tiny(wide_llama, Quantization(kind="nf4"), "bf16")
    peft = attach(loaded, Adapter(kind="lora", rank=4), seed=0)
    peft.eval()
    logits_of(peft, loaded.tokenizer)
    peft.train()
    ids = loaded.tokenizer("some text", return_tensors="pt")["input_ids"]
    peft(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    gradients = {name: p.grad for name, p in peft.named_parameters() if "lora_B" in name}
    assert gradients and all(g is not None and g.abs().max() > 0 for g in gradients.values())


def test_the_trap_is_there_without_the_cure(wide_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the cure goes when bitsandbytes no longer needs it."""
    from bitsandbytes.functional import has_avx512bf16

    if not has_avx512bf16():
        pytest.skip("this CPU has no AVX512-BF16")
    monkeypatch.setattr("alignkit.models.loading.keep_trainable_on_cpu", lambda model: None)
    loaded = load_tiny(wide_llama, Quantization(kind="nf4"), "bf16")
    layer = loaded.model.model.layers[0].mlp.up_proj
    before = layer.weight.data.clone()
    logits_of(loaded)
    assert layer.weight.data.shape != before.shape or not torch.equal(layer.weight.data, before)


def test_merging_dequantizes_first_and_reports_the_drift(wide_llama: Path, tmp_path: Path) -> None:
    loaded = load_tiny(wide_llama, Quantization(kind="nf4"), "bf16")
    peft = attach(loaded, Adapter(kind="lora", rank=8), seed=0)
    train_a_little(peft, loaded.tokenizer)
    held_out = rows(loaded.tokenizer)
    reference = Reference(peft, held_out)
    with peft.disable_adapter():
        untrained = reference.drift(peft)
    merged = fold(peft, dtype=torch.float32)
    assert {p.dtype for p in merged.parameters()} == {torch.float32}
    moved = reference.drift(merged)
    assert moved["kl"] < 0.02 * untrained["kl"] and moved["top1_agreement"] > 0.9
    assert moved["tokens"] == sum(label != -100 for row in held_out for label in row.labels[1:])
    save_model(merged, loaded.tokenizer, tmp_path / "merged")
    assert "quantization_config" not in (tmp_path / "merged" / "config.json").read_text()
    again = load_tiny(tmp_path / "merged", dtype="bf16")
    assert not again.quantized
    assert reference.drift(again.model)["kl"] < 0.02 * untrained["kl"]


def test_drift_against_an_independent_calculation(wide_llama: Path, tmp_path: Path) -> None:
    one = load_tiny(wide_llama)
    other = load_tiny(save_tiny(tmp_path / "other", seed=3, hidden_size=128, initializer_range=0.1))
    row = rows(one.tokenizer)[0]
    ids = torch.tensor([row.input_ids])
    places = [i - 1 for i, label in enumerate(row.labels) if label != -100]
    with torch.no_grad():
        p, q = (m.model(input_ids=ids).logits[0, places].double().softmax(-1) for m in (one, other))
    found = drift(one.model, other.model, [row])
    assert found["kl"] == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-4)
    assert found["top1_agreement"] == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).double().mean()))
    assert drift(one.model, one.model, [row])["kl"] == pytest.approx(0, abs=1e-7)
    with pytest.raises(RunError, match="nothing to measure"):
        drift(one.model, other.model, [Row([1, 2], [-100, -100])])


def test_an_adapter_of_one_quantization_on_another_is_refused(wide_llama: Path, tmp_path: Path) -> None:
    loaded = load_tiny(wide_llama, Quantization(kind="nf4"))
    peft = attach(loaded, Adapter(kind="lora", rank=2), seed=0)
    save_adapter(peft, tmp_path / "adapter", loaded.source)
    with pytest.raises(RequestError, match="trained on a nf4 base"):
        load_tiny(tmp_path / "adapter", Quantization(kind="int8"))


def test_int8_trains_and_comes_back(wide_llama: Path, tmp_path: Path) -> None:
    loaded = load_tiny(wide_llama, Quantization(kind="int8"))
    peft = attach(loaded, Adapter(kind="lora", rank=4), seed=0)
    before = logits_of(peft, loaded.tokenizer)
    train_a_little(peft, loaded.tokenizer)
    trained = logits_of(peft, loaded.tokenizer)
    assert (trained - before).abs().max() > 0.1
    save_adapter(peft, tmp_path / "adapter", loaded.source)
    again = load_tiny(tmp_path / "adapter", Quantization(kind="int8"))
    torch.testing.assert_close(logits_of(again), trained, rtol=0, atol=1e-4)
    plain = load_tiny(tmp_path / "adapter")
    assert (logits_of(plain) - trained).abs().mean() < 0.1 * (trained - before).abs().mean()


def test_a_tied_head_that_training_moved_apart_is_saved_apart(tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "tied", tie_word_embeddings=True, initializer_range=0.2)
    loaded = load_tiny(path)
    peft = attach(loaded, Adapter(kind="lora", rank=4, modules_to_save=["embed_tokens"]), seed=0)
    train_a_little(peft, loaded.tokenizer)
    trained = logits_of(peft, loaded.tokenizer)
    merged = fold(peft)
    assert not merged.config.tie_word_embeddings
    save_model(merged, loaded.tokenizer, tmp_path / "merged")
    torch.testing.assert_close(logits_of(load_tiny(tmp_path / "merged")), trained, rtol=0, atol=1e-4)
    untouched = fold(attach(load_tiny(path), Adapter(kind="lora", rank=4), seed=0))
    assert untouched.config.tie_word_embeddings
    assert untouched.lm_head.weight is untouched.model.embed_tokens.weight
