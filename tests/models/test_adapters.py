"""Adapters: where they start, what they train, and that what is saved fits the untouched base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.config.sections import Adapter, Quantization
from alignkit.errors import RequestError
from alignkit.models.adapters import attach, keep_adapter_in_fp32, lora_layers, save_adapter, trainable_summary
from alignkit.models.hardware import DTYPES
from alignkit.models.loading import Loaded
from tests.models.helpers import load_tiny, logits_of, train_a_little
from tests.tiny import save_tiny

NF4 = Quantization(kind="nf4")
TOLERANCE = {"fp32": 2e-5, "bf16": 0.03}


@pytest.fixture(scope="module")
def loud_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose weights are large enough for 4 bits and small changes to show in its logits."""
    return save_tiny(tmp_path_factory.mktemp("loud") / "llama", initializer_range=0.2)


def batches(loaded: Loaded) -> list[dict[str, Any]]:
    texts = ["a small text to calibrate on", "and another one of other words", "numbers 1 2 3 4 5 6"]
    rows = [dict(loaded.tokenizer(text, return_tensors="pt")) for text in texts]
    return [{**row, "labels": row["input_ids"]} for row in rows]


def attached(loaded: Loaded, section: Adapter, seed: int = 0) -> Any:
    return attach(loaded, section, seed=seed, calibration=batches(loaded))


@pytest.mark.parametrize(
    ("init", "dtype", "rslora"),
    [
        ("default", "fp32", False),
        ("default", "bf16", True),
        ("gaussian", "fp32", True),
        ("orthogonal", "bf16", False),
        ("pissa", "fp32", True),
        ("pissa", "bf16", False),
        ("olora", "fp32", False),
        ("olora", "bf16", True),
        ("eva", "fp32", False),
        ("eva", "bf16", True),
    ],
)
def test_starts_at_the_base_and_is_saved_for_the_untouched_base(
    loud_llama: Path, tmp_path: Path, init: Any, dtype: str, rslora: bool
) -> None:
    loaded = load_tiny(loud_llama, dtype=dtype)
    base = logits_of(loaded)
    section = Adapter(kind="lora", rank=4, init=init, rslora=rslora, rank_pattern={"q_proj": 6}, dropout=0.1)
    model = attached(loaded, section)
    torch.testing.assert_close(logits_of(model, loaded.tokenizer), base, rtol=0, atol=TOLERANCE[dtype])
    train_a_little(model, loaded.tokenizer)
    trained = logits_of(model, loaded.tokenizer)
    assert (trained - base).abs().max() > 0.1
    with model.disable_adapter():
        torch.testing.assert_close(logits_of(model, loaded.tokenizer), base, rtol=0, atol=0)

    save_adapter(model, tmp_path / "adapter", loaded.source, tokenizer=loaded.tokenizer)
    again = load_tiny(tmp_path / "adapter", dtype=dtype)
    assert not hasattr(again.model, "peft_config")
    _assert_same(logits_of(again), trained, base, dtype)
    _assert_same(_by_plain_peft(tmp_path / "adapter", dtype, loaded), trained, base, dtype)


def _assert_same(found: torch.Tensor, trained: torch.Tensor, base: torch.Tensor, dtype: str) -> None:
    """Equal up to rounding; in bf16, where the weights themselves are rounded once more, next to what was learned."""
    if dtype == "fp32":
        torch.testing.assert_close(found, trained, rtol=0, atol=1e-4)
    else:
        assert (found - trained).abs().mean() < 0.05 * (trained - base).abs().mean()


def _by_plain_peft(directory: Path, dtype: str, loaded: Loaded) -> torch.Tensor:
    """The logits that a person without alignkit gets."""
    from peft import AutoPeftModelForCausalLM

    model = AutoPeftModelForCausalLM.from_pretrained(directory, dtype=DTYPES[dtype])
    return logits_of(model, loaded.tokenizer)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_an_initialisation_inside_the_weights_differs_from_plain_lora(loud_llama: Path, init: Any) -> None:
    """It trains the leading directions: the product of the factors is the best approximation (PiSSA), or Q·R's head."""
    loaded = load_tiny(loud_llama)
    model = attached(loaded, Adapter(kind="lora", rank=4, alpha=2, init=init))
    layer = lora_layers(model)[0][1]
    weight = layer.get_base_layer().weight.detach().double()
    product = layer.scaling["default"] * (layer.lora_B["default"].weight @ layer.lora_A["default"].weight).double()
    if init == "pissa":
        u, s, vh = torch.linalg.svd(weight)
        wanted = u[:, :4] @ torch.diag(s[:4]) @ vh[:4]
    else:
        q, r = torch.linalg.qr(weight)
        wanted = layer.scaling["default"] * q[:, :4] @ r[:4]
    torch.testing.assert_close(product.detach(), wanted, rtol=1e-4, atol=1e-5)


def test_eva_looks_at_the_data(loud_llama: Path) -> None:
    """A spans the leading directions of the layer's inputs: it holds more of their energy than random directions."""
    loaded = load_tiny(loud_llama)
    seen: list[torch.Tensor] = []
    layer = loaded.model.model.layers[0].self_attn.q_proj
    handle = layer.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].flatten(0, 1)))
    for batch in batches(loaded):
        loaded.model(input_ids=batch["input_ids"])
    handle.remove()
    inputs = torch.cat(seen).detach()

    def share(init: Any) -> float:
        peft = attached(load_tiny(loud_llama), Adapter(kind="lora", rank=4, init=init))
        a = peft.base_model.model.model.layers[0].self_attn.q_proj.lora_A["default"].weight.detach()
        q, _ = torch.linalg.qr(a.T)  # (in, r)
        return float((inputs @ q).square().sum() / inputs.square().sum())

    assert share("eva") > 2 * share("default")


@pytest.mark.parametrize("init", ["default", "loftq"])
@pytest.mark.parametrize("double", [False, True])
def test_an_adapter_on_a_quantized_base_fits_that_base_quantized_anew(
    loud_llama: Path, tmp_path: Path, init: Any, double: bool
) -> None:
    quantization = Quantization(kind="nf4", double=double)
    loaded = load_tiny(loud_llama, quantization)
    assert loaded.quantized
    model = attached(loaded, Adapter(kind="lora", rank=8, init=init))
    train_a_little(model, loaded.tokenizer)
    trained = logits_of(model, loaded.tokenizer)
    save_adapter(model, tmp_path / "adapter", loaded.source)

    again = load_tiny(tmp_path / "adapter", quantization)
    assert again.quantized
    torch.testing.assert_close(logits_of(again), trained, rtol=0, atol=1e-4)
    unquantized = load_tiny(tmp_path / "adapter")
    assert not unquantized.quantized
    torch.testing.assert_close(logits_of(unquantized), trained, rtol=0, atol=1e-3)


def test_loftq_undoes_part_of_the_quantization_error(loud_llama: Path) -> None:
    base = logits_of(load_tiny(loud_llama))
    errors = {}
    for init in ("default", "loftq"):
        loaded = load_tiny(loud_llama, NF4)
        model = attached(loaded, Adapter(kind="lora", rank=16, init=init))  # type: ignore[arg-type]
        errors[init] = float((logits_of(model, loaded.tokenizer) - base).square().mean())
    assert errors["loftq"] < 0.5 * errors["default"]


@pytest.mark.parametrize("quantization", [Quantization(), NF4])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_adapters_are_fp32_and_the_same_for_the_same_seed(
    loud_llama: Path, quantization: Quantization, dtype: str
) -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed + 100)
        loaded = load_tiny(loud_llama, quantization, dtype)
        model = attached(loaded, Adapter(kind="lora", rank=4), seed=seed)
        states.append({name: p for name, p in model.named_parameters() if p.requires_grad})
        assert all(p.dtype == torch.float32 for p in states[-1].values())
        assert all(".lora_" in name for name in states[-1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_adapters_cast_by_a_library_come_back_to_fp32(loud_llama: Path) -> None:
    model = attached(load_tiny(loud_llama, dtype="bf16"), Adapter(kind="lora", rank=4))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    keep_adapter_in_fp32(model)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("quantization", [Quantization(), NF4])
def test_dora_starts_at_the_base_and_round_trips(
    loud_llama: Path, tmp_path: Path, dtype: str, quantization: Quantization
) -> None:
    loaded = load_tiny(loud_llama, quantization, dtype)
    base = logits_of(loaded)
    model = attached(loaded, Adapter(kind="dora", rank=4))
    torch.testing.assert_close(logits_of(model, loaded.tokenizer), base, rtol=0, atol=2 * TOLERANCE[dtype])
    train_a_little(model, loaded.tokenizer)
    trained = logits_of(model, loaded.tokenizer)
    assert (trained - base).abs().max() > 0.1
    save_adapter(model, tmp_path / "adapter", loaded.source)
    again = load_tiny(tmp_path / "adapter", quantization, dtype)
    _assert_same(logits_of(again), trained, base, dtype)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_modules_to_save_are_trained_in_full_and_folded(tmp_path: Path, tied: bool, dtype: str) -> None:
    path = save_tiny(tmp_path / "base", tie_word_embeddings=tied, initializer_range=0.2)
    loaded = load_tiny(path, dtype=dtype)
    base = logits_of(loaded)
    section = Adapter(kind="lora", rank=4, targets=["q_proj"], modules_to_save=["embed_tokens"])
    model = attached(loaded, section)
    train_a_little(model, loaded.tokenizer)
    whole = [p for name, p in model.named_parameters() if "modules_to_save" in name]
    assert whole and all(p.requires_grad and p.dtype == torch.float32 for p in whole)
    trained = logits_of(model, loaded.tokenizer)
    save_adapter(model, tmp_path / "adapter", loaded.source)
    again = load_tiny(tmp_path / "adapter", dtype=dtype)
    _assert_same(logits_of(again), trained, base, dtype)


def test_targets_layers_and_patterns(loud_llama: Path) -> None:
    section = Adapter(
        kind="lora", rank=4, alpha=8, layers=[1], rank_pattern={"v_proj": 2}, alpha_pattern={"q_proj": 32.0}
    )
    layers = dict(lora_layers(attached(load_tiny(loud_llama), section)))
    assert layers and all(".layers.1." in name for name in layers)
    q = next(layer for name, layer in layers.items() if name.endswith("q_proj"))
    v = next(layer for name, layer in layers.items() if name.endswith("v_proj"))
    assert (q.r["default"], q.scaling["default"]) == (4, 8.0)
    assert (v.r["default"], v.scaling["default"]) == (2, 4.0)
    pattern = Adapter(kind="lora", rank=4, targets=r".*layers\.0\..*(q|v)_proj")
    names = [name for name, _ in lora_layers(attached(load_tiny(loud_llama), pattern))]
    assert sorted(name.rpartition(".")[2] for name in names) == ["q_proj", "v_proj"]
    everything = [name for name, _ in lora_layers(attached(load_tiny(loud_llama), Adapter(kind="lora")))]
    assert len(everything) == 14 and not any("lm_head" in name for name in everything)


@pytest.mark.parametrize(
    ("section", "found"),
    [
        (Adapter(kind="lora", targets=["q_porj"]), "Did you mean q_proj"),
        (Adapter(kind="lora", targets=".*nothing"), "matches no module"),
        (Adapter(kind="lora", layers=[7]), "layers 0 to 1"),
        (Adapter(kind="lora", modules_to_save=["lm_haed"]), "Did you mean lm_head"),
        (Adapter(kind="lora", rank=64, init="pissa"), "or less"),
    ],
)
def test_what_does_not_fit_the_model_is_a_sentence(loud_llama: Path, section: Adapter, found: str) -> None:
    with pytest.raises(RequestError, match=found):
        attached(load_tiny(loud_llama), section)


def test_gpt2s_transposed_layers(tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "gpt2", "gpt2", initializer_range=0.2)
    for kind, init in (("lora", "pissa"), ("lora", "olora"), ("dora", "default")):
        loaded = load_tiny(path)
        model = attached(loaded, Adapter(kind=kind, rank=4, init=init))  # type: ignore[arg-type]
        train_a_little(model, loaded.tokenizer)
        trained = logits_of(model, loaded.tokenizer)
        save_adapter(model, tmp_path / init, loaded.source)
        torch.testing.assert_close(logits_of(load_tiny(tmp_path / init)), trained, rtol=0, atol=1e-3)


def test_trainable_summary_counts_what_4_bit_weights_stand_for(loud_llama: Path) -> None:
    plain = load_tiny(loud_llama)
    quantized = load_tiny(loud_llama, NF4)
    assert trainable_summary(plain.model)[1] == trainable_summary(quantized.model)[1]
    trainable, total = trainable_summary(attached(quantized, Adapter(kind="lora", rank=2)))
    assert 0 < trainable < total / 10


def test_a_chain_of_adapters(loud_llama: Path, tmp_path: Path) -> None:
    """An adapter on an adapter, on a plain and on a quantized base, where the first stays beside it."""
    for name, quantization in (("plain", Quantization()), ("nf4", NF4)):
        first = load_tiny(loud_llama, quantization)
        model = attached(first, Adapter(kind="lora", rank=4))
        train_a_little(model, first.tokenizer)
        save_adapter(model, tmp_path / name / "first", first.source, tokenizer=first.tokenizer)

        second = load_tiny(tmp_path / name / "first", quantization)
        before = logits_of(second)
        torch.testing.assert_close(before, logits_of(model, first.tokenizer), rtol=0, atol=1e-4)
        model = attached(second, Adapter(kind="lora", rank=4))
        torch.testing.assert_close(logits_of(model, second.tokenizer), before, rtol=0, atol=1e-4)
        assert all(".default." in n for n, p in model.named_parameters() if p.requires_grad)
        train_a_little(model, second.tokenizer, learning_rate=3e-2)
        trained = logits_of(model, second.tokenizer)
        assert (trained - before).abs().max() > 0.1
        save_adapter(model, tmp_path / name / "second", second.source)
        torch.testing.assert_close(
            logits_of(load_tiny(tmp_path / name / "second", quantization)), trained, rtol=0, atol=1e-3
        )
        torch.testing.assert_close(logits_of(load_tiny(tmp_path / name / "second")), trained, rtol=0, atol=2e-3)


def test_a_moved_tree_still_finds_its_base(loud_llama: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(loud_llama, tmp_path / "old" / "base")
    loaded = load_tiny(tmp_path / "old" / "base")
    model = attached(loaded, Adapter(kind="lora", rank=4))
    save_adapter(model, tmp_path / "old" / "adapter", loaded.source)
    (tmp_path / "old").rename(tmp_path / "new")
    assert load_tiny(tmp_path / "new" / "adapter").source.parent.path == tmp_path / "new" / "base"  # type: ignore[union-attr]
