"""extract-lora: what was a low-rank change comes back exactly, what was not as well as its rank allows."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

import alignkit
from alignkit.config.sections import Model
from alignkit.errors import RequestError
from alignkit.models.loading import load
from alignkit.models.locating import from_name
from alignkit.stages.extract_lora.svd import factors, leading_svd, product_svd, rank_for
from alignkit.stages.merge.adapters import open_adapted
from tests.tiny import build_tokenizer, save_tiny

IDS = torch.tensor([[1, 40, 77, 120, 200, 2]])


def noise(shape: tuple[int, ...], seed: int, scale: float = 0.05) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def low_rank(shape: tuple[int, ...], rank: int, seed: int) -> np.ndarray:
    product: np.ndarray = noise((shape[0], rank), seed, 0.3) @ noise((rank, shape[1]), seed + 1000, 0.3)
    return product


def tune(base: Path, place: Path, change: Any) -> Path:
    """A copy of a checkpoint in which `change(name, value, number)` stands for each tensor."""
    place.mkdir()
    for file in base.iterdir():
        if file.suffix != ".safetensors":
            (place / file.name).write_bytes(file.read_bytes())
    tensors = load_file(base / "model.safetensors")
    changed = {name: change(name, value, at) for at, (name, value) in enumerate(tensors.items())}
    save_file(changed, place / "model.safetensors", metadata={"format": "pt"})
    return place


def is_linear(name: str) -> bool:
    return name.endswith("weight") and ("_proj" in name or "c_" in name)


def extract(tmp_path: Path, tuned: Path, base: Path, *words: str) -> dict[str, Any]:
    given = [f"model={tuned}", f"base={base}", f"run.root={tmp_path / 'runs'}", *words]
    return alignkit.train("extract-lora", given)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS).logits.float()
    return found


def require_same(result: dict[str, Any], tuned: Path, base: Path, tolerance: float = 1e-4) -> None:
    """The adapter on the base predicts what the fine-tune does: in PEFT, in alignkit, and as a source of a merge."""
    wanted = logits(AutoModelForCausalLM.from_pretrained(tuned))
    ours = load(Model(name=result["path"], dtype="fp32"), device="cpu").model
    assert torch.allclose(logits(ours), wanted, atol=tolerance)
    origin = json.loads((Path(result["path"]) / "alignkit.json").read_text())
    if "vocabulary" not in origin:  # PEFT alone does not make room for new tokens
        peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), result["path"])
        assert torch.allclose(logits(peft), wanted, atol=tolerance)
    merged, stored = open_adapted(from_name(result["path"])), load_file(tuned / "model.safetensors")
    for name, value in stored.items():
        found = merged.read(name, 0, value.size).reshape(value.shape)
        np.testing.assert_allclose(found, value, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "mistral"])
def test_a_low_rank_change_comes_back_exactly(tmp_path: Path, kind: str) -> None:
    base = save_tiny(tmp_path / "base", kind)
    tuned = tune(base, tmp_path / "tuned", lambda name, x, at: x + low_rank(x.shape, 3, at) if is_linear(name) else x)
    result = extract(tmp_path, tuned, base, "extract.rank=8")
    figures = result["metrics"]["extract"]
    assert figures["energy_kept"] == pytest.approx(1, abs=1e-6) and not figures["left_out"]
    assert figures["rank"] == {"smallest": 3, "largest": 3, "mean": 3.0}  # what is rounding is no rank
    require_same(result, tuned, base)


def test_a_full_rank_change_is_as_good_as_the_best_of_its_rank(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base", hidden_size=320, intermediate_size=640)  # large enough to be sketched
    tuned = tune(base, tmp_path / "tuned", lambda name, x, at: x + noise(x.shape, at) if is_linear(name) else x)
    result = extract(tmp_path, tuned, base, "extract.rank=16")
    merged = open_adapted(from_name(result["path"]))
    first, second = load_file(base / "model.safetensors"), load_file(tuned / "model.safetensors")
    kept = whole = 0.0
    for name in (name for name in first if is_linear(name)):
        delta = second[name] - first[name]
        found = merged.read(name, 0, delta.size).reshape(delta.shape) - first[name]
        s = np.linalg.svd(delta.astype(np.float64), compute_uv=False)
        best = math.sqrt(np.square(s[16:]).sum())
        assert np.linalg.norm(found - delta) <= 1.03 * best, name
        kept, whole = kept + np.square(found.astype(np.float64)).sum(), whole + np.square(s).sum()
    assert result["metrics"]["extract"]["energy_kept"] == pytest.approx(kept / whole, rel=1e-3)


def test_a_share_of_energy_gives_each_matrix_its_own_rank(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    ranks = {"q_proj": 2, "down_proj": 5}

    def change(name: str, x: np.ndarray, at: int) -> np.ndarray:
        rank = next((rank for leaf, rank in ranks.items() if leaf in name), 0)
        return x + low_rank(x.shape, rank, at) if rank else x

    tuned = tune(base, tmp_path / "tuned", change)
    full = extract(tmp_path, tuned, base, "extract.energy=0.999999")
    config = json.loads((Path(full["path"]) / "adapter_config.json").read_text())
    assert config["r"] == 5 and set(config["rank_pattern"].values()) == {2}
    require_same(full, tuned, base, 2e-3)
    part = extract(tmp_path, tuned, base, "extract.energy=0.6")["metrics"]["extract"]
    assert part["lowest_energy_kept"]["share"] >= 0.6 and part["rank"]["largest"] < 5


def test_norms_biases_and_a_few_rows_are_saved_beside(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base", "qwen2")

    def change(name: str, x: np.ndarray, at: int) -> np.ndarray:
        if name == "model.embed_tokens.weight":
            x = x.copy()
            x[[5, 40]] += 1
            return x
        return x + (low_rank(x.shape, 2, at) if is_linear(name) else noise(x.shape, at) if x.ndim == 1 else 0)

    tuned = tune(base, tmp_path / "tuned", change)
    result = extract(tmp_path, tuned, base)
    figures = result["metrics"]["extract"]
    config = json.loads((Path(result["path"]) / "adapter_config.json").read_text())
    assert config["trainable_token_indices"] == {"model.embed_tokens": [5, 40]} and figures["token_rows"] == 2
    assert config["bias"] == "lora_only" and "model.norm" in config["modules_to_save"]
    assert "model.layers.0.self_attn.q_proj.bias" in figures["saved_whole"]
    require_same(result, tuned, base)
    with pytest.raises(RequestError, match=r"no target: .*norm"):
        extract(tmp_path, tuned, base, "extract.others=refuse")
    left = extract(tmp_path, tuned, base, "extract.others=leave")
    assert len(left["metrics"]["extract"]["left_out"]) == len(figures["saved_whole"]) + 1
    files = load_file(Path(left["path"]) / "adapter_model.safetensors")
    assert all(".lora_" in name for name in files)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("rows", [10, 200])
def test_embeddings(tmp_path: Path, tied: bool, rows: int) -> None:
    """Few rows are saved as rows, many as the matrix, and a tie stays a tie."""
    base = save_tiny(tmp_path / "base", tie_word_embeddings=tied)

    def change(name: str, x: np.ndarray, at: int) -> np.ndarray:
        if name == "model.embed_tokens.weight":
            return np.concatenate([x[:rows] + noise(x[:rows].shape, 7), x[rows:]])
        return x + low_rank(x.shape, 2, at) if is_linear(name) else x

    tuned = tune(base, tmp_path / "tuned", change)
    result = extract(tmp_path, tuned, base)
    figures = result["metrics"]["extract"]
    assert figures["token_rows"] == (rows if rows == 10 else 0)
    assert figures["saved_whole"] == ([] if rows == 10 else ["model.embed_tokens.weight"])
    require_same(result, tuned, base)


def test_the_head_is_a_matrix_like_others(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    tuned = tune(
        base,
        tmp_path / "tuned",
        lambda name, x, at: x + low_rank(x.shape, 3, at) if name == "lm_head.weight" or is_linear(name) else x,
    )
    result = extract(tmp_path, tuned, base)
    assert "lm_head" in json.loads((Path(result["path"]) / "adapter_config.json").read_text())["target_modules"]
    require_same(result, tuned, base)
    only = extract(tmp_path, tuned, base, "extract.targets=[q_proj,v_proj]", "extract.others=leave")
    assert only["metrics"]["extract"]["modules"] == 4
    assert "lm_head.weight" in only["metrics"]["extract"]["left_out"]


def test_a_head_that_the_fine_tune_untied(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base", tie_word_embeddings=True)
    tuned = tune(base, tmp_path / "tuned", lambda name, x, at: x + low_rank(x.shape, 2, at) if is_linear(name) else x)
    tensors = load_file(tuned / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + noise((259, 32), 3)
    save_file(tensors, tuned / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tuned / "config.json").read_text()) | {"tie_word_embeddings": False}
    (tuned / "config.json").write_text(json.dumps(config))
    result = extract(tmp_path, tuned, base)
    assert result["metrics"]["extract"]["saved_whole"] == ["lm_head.weight"]
    require_same(result, tuned, base)


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens(tmp_path: Path, tied: bool) -> None:
    base = save_tiny(tmp_path / "base", tie_word_embeddings=tied)
    grown = AutoModelForCausalLM.from_pretrained(base)
    grown.resize_token_embeddings(262)
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["<a>", "<b>", "<c>"], special_tokens=True)
    grown.save_pretrained(tmp_path / "grown")
    tokenizer.save_pretrained(tmp_path / "grown")
    grown_to = tmp_path / "grown"
    tuned = tune(grown_to, tmp_path / "tuned", lambda n, x, at: x + low_rank(x.shape, 2, at) if is_linear(n) else x)
    result = extract(tmp_path, tuned, base)
    origin = json.loads((Path(result["path"]) / "alignkit.json").read_text())
    assert origin["vocabulary"] == {"rows": 262, "mean_of": 259, "trained": [259, 260, 261]}
    loaded = load(Model(name=result["path"], dtype="fp32"), device="cpu")
    assert len(loaded.tokenizer) == 262
    require_same(result, tuned, base)


def test_from_an_adapter_on_its_base(tmp_path: Path) -> None:
    """BASE+ADAPTER is a fine-tune: a DoRA becomes a plain LoRA."""
    from tests.stages.merge.test_adapters import make

    base, adapter, _ = make(tmp_path, target_modules=["q_proj", "down_proj"], use_dora=True)
    result = extract(tmp_path, adapter, base, "extract.rank=32")
    wanted = logits(load(Model(name=str(adapter), dtype="fp32"), device="cpu").model)
    found = logits(load(Model(name=result["path"], dtype="fp32"), device="cpu").model)
    assert torch.allclose(found, wanted, atol=1e-4)


def test_bf16_and_the_same_command_again(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    result = extract(tmp_path, tmp_path / "half", base)  # the change is the rounding: of full rank
    assert 0 < result["metrics"]["extract"]["energy_kept"] <= 1
    again = extract(tmp_path, tmp_path / "half", base)
    assert again["reused"] and again["path"] == result["path"]
    first = (Path(result["path"]) / "adapter_model.safetensors").read_bytes()
    anew = alignkit.train(
        "extract-lora", [f"model={tmp_path / 'half'}", f"base={base}", f"run.root={tmp_path / 'other'}"]
    )
    assert (Path(anew["path"]) / "adapter_model.safetensors").read_bytes() == first


def test_experts_that_are_computed_with_in_another_form(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base", "mixtral", num_local_experts=4)
    tuned = tune(base, tmp_path / "tuned", lambda name, x, at: x + low_rank(x.shape, 2, at) if x.ndim == 2 else x)
    with pytest.raises(RequestError, match=r"another form: .*experts"):
        extract(tmp_path, tuned, base)
    result = extract(tmp_path, tuned, base, "extract.others=leave")
    assert any("experts.3.w1" in name for name in result["metrics"]["extract"]["left_out"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["extract.rank=0"], "extract.rank"),
        (["extract.energy=1.5"], "extract.energy"),
        (["extract.targets=[q_prj]"], "Did you mean q_proj"),
        (["extract.targets=(("], "no regular expression"),
        (["model.dtype=bf16"], "runs no model"),
        (["extract.others=maybe"], "extract.others"),
    ],
)
def test_wrong_values(tmp_path: Path, words: list[str], says: str) -> None:
    base = save_tiny(tmp_path / "base")
    tuned = tune(base, tmp_path / "tuned", lambda name, x, at: x + low_rank(x.shape, 2, at) if is_linear(name) else x)
    with pytest.raises(RequestError) as caught:
        extract(tmp_path, tuned, base, *words)
    assert says in str(caught.value)


def test_models_that_do_not_belong_together(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    with pytest.raises(RequestError, match="none of the target matrices differs"):
        extract(tmp_path, base, base)
    with pytest.raises(RequestError, match="and the fine-tune a llama"):
        extract(tmp_path, base, save_tiny(tmp_path / "qwen", "qwen2"))
    with pytest.raises(RequestError) as caught:
        extract(tmp_path, base, save_tiny(tmp_path / "wide", intermediate_size=96))
    assert len(caught.value.faults) == 6 and "(64, 32), and (96, 32) in the base" in str(caught.value)
    with pytest.raises(RequestError, match=r"the fine-tune has no model\.layers\.2"):
        extract(tmp_path, base, save_tiny(tmp_path / "deep", layers=3))
    with pytest.raises(RequestError, match=r"the base has no model\.layers\.1"):
        extract(tmp_path, base, save_tiny(tmp_path / "flat", layers=1))
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob("*/model"))


def test_a_checkpoint_without_the_root_module(tmp_path: Path) -> None:
    """GPT-2 as its authors published it: h.0 in the file, transformer.h.0 in the model."""
    base = save_tiny(tmp_path / "base", "gpt2")
    stored = load_file(base / "model.safetensors")
    bare = {name.removeprefix("transformer."): value for name, value in stored.items()}
    save_file(bare, base / "model.safetensors", metadata={"format": "pt"})
    tuned = tune(base, tmp_path / "tuned", lambda name, x, at: x + low_rank(x.shape, 2, at) if is_linear(name) else x)
    result = extract(tmp_path, tuned, base)
    assert not result["metrics"]["extract"]["saved_whole"]
    targets = json.loads((Path(result["path"]) / "adapter_config.json").read_text())["target_modules"]
    assert "transformer.h.0.attn.c_attn" in targets
    require_same(result, tuned, base)


# --- the maths ----------------------------------------------------------------------------------------------------


def generator() -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=1))


@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (20, 600), (300, 300)])
@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_the_sketch_is_close_to_the_best(shape: tuple[int, int], decay: float) -> None:
    u, _ = np.linalg.qr(noise((shape[0], min(shape)), 1, 1))
    v, _ = np.linalg.qr(noise((shape[1], min(shape)), 2, 1))
    s = (1 + np.arange(min(shape))) ** -decay
    matrix = ((u * s) @ v.T).astype(np.float32)
    for rank in (1, 8, 32):
        a, b = factors(leading_svd(matrix, rank, generator(), iterations=4), rank)
        best = math.sqrt(np.square(s[rank:]).sum())
        assert a.shape[0] == b.shape[1] == min(rank, *shape)
        assert np.linalg.norm(b @ a - matrix) <= 1.03 * best + 1e-5


def test_power_iterations_bring_the_sketch_closer() -> None:
    matrix = noise((400, 500), 3, 1)
    lost = []
    for iterations in (0, 1, 4):
        a, b = factors(leading_svd(matrix, 16, generator(), iterations=iterations), 16)
        lost.append(np.linalg.norm(b @ a - matrix))
    assert lost[0] > lost[1] > lost[2]


def test_products_are_decomposed_without_being_made() -> None:
    b, a = noise((50, 6), 1, 1), noise((6, 70), 2, 1)
    u, s, vt = product_svd(b, a)
    np.testing.assert_allclose((u * s) @ vt, b @ a, atol=1e-5)
    np.testing.assert_allclose(s, np.linalg.svd(b @ a, compute_uv=False)[:6], rtol=1e-5)
    wide = product_svd(noise((4, 9), 1, 1), noise((9, 5), 2, 1))  # more factors than sides
    assert wide[0].shape == (4, 4) and wide[1].shape == (4,) and wide[2].shape == (4, 5)


def test_the_rank_for_a_share() -> None:
    s = np.array([3.0, 2.0, 1.0], dtype=np.float32)
    assert [rank_for(s, 14.0, share) for share in (0.5, 9 / 14, 0.7, 13 / 14, 1.0)] == [1, 1, 2, 2, 3]
    assert rank_for(s, 100.0, 0.5) == 3  # never reached: all there are
