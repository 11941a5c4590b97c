"""Adapters merged among themselves: PEFT's results where the definitions agree, the whole-model methods elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

import alignkit
from alignkit.errors import RequestError
from alignkit.models.locating import from_name
from alignkit.stages.merge.adapter_merging import Merged, merge_adapters
from alignkit.stages.merge.adapter_methods import ADAPTER_METHODS, check, common_base
from alignkit.stages.merge.adapter_reading import Adapter
from alignkit.stages.merge.adapter_writing import write_adapter
from tests.stages.merge.test_adapters import make

NAME = "model.layers.0.self_attn.q_proj"


def opened(*paths: Path) -> list[Adapter]:
    return [Adapter.open(from_name(str(path))) for path in paths]


def merge(paths: list[Path], method: str, rank: int | None = None, seed: int = 42, **values: Any) -> Merged:
    default = ADAPTER_METHODS[method].defaults(len(paths))
    return merge_adapters(opened(*paths), method, lambda name: {**default, **values}, rank=rank, seed=seed)


def update(merged: Merged, module: str = NAME) -> np.ndarray:
    root = f"base_model.model.{module}"
    a, b = (merged.written.tensors[f"{root}.lora_{side}.weight"][2] for side in "AB")
    found: np.ndarray = np.asarray(b) @ np.asarray(a)
    return found


def own_update(path: Path, module: str = NAME) -> np.ndarray:
    adapter = opened(path)[0]
    part = adapter.low_rank[module]
    found: np.ndarray = part.scale * (adapter.read(part.b) @ adapter.read(part.a))
    return found


def two(tmp_path: Path, **lora: Any) -> tuple[Path, list[Path]]:
    lora = {"target_modules": ["q_proj", "up_proj"]} | lora
    base, first, _ = make(tmp_path, seed=0, **lora)
    _, second, _ = make(tmp_path, seed=1, **lora, lora_alpha=10)
    return base, [first, second]


@pytest.mark.parametrize(("method", "kind"), [("linear", "linear"), ("cat", "cat"), ("svd", "svd")])
@pytest.mark.parametrize("weights", [[0.7, 0.5], [1.0, -0.4]])
def test_as_peft(tmp_path: Path, method: str, kind: str, weights: list[float]) -> None:
    base, paths = two(tmp_path)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(paths[0]), adapter_name="a")
    model.load_adapter(str(paths[1]), adapter_name="b")
    model.add_weighted_adapter(["a", "b"], weights, "both", combination_type=kind)
    merged = merge(paths, method, weight=weights)
    for module, layer in ((NAME, "layers.0.self_attn.q_proj"), ("model.layers.1.mlp.up_proj", "layers.1.mlp.up_proj")):
        wanted = model.get_submodule(f"base_model.model.model.{layer}").get_delta_weight("both").detach().numpy()
        np.testing.assert_allclose(update(merged, module), wanted, atol=2e-6)


def test_cat_is_the_weighted_sum_and_linear_says_how_far_it_is_from_it(tmp_path: Path) -> None:
    _, paths = two(tmp_path)
    wanted = 0.3 * own_update(paths[0]) + 0.6 * own_update(paths[1])
    cat = merge(paths, "cat", weight=[0.3, 0.6])
    np.testing.assert_allclose(update(cat), wanted, atol=1e-6)
    assert cat.metrics == {"modules": 4, "rank": 8, "missed": 0.0}
    linear = merge(paths, "linear", weight=[0.3, 0.6])
    sums = [
        [np.square(found).sum() for found in (update(linear, module) - exact, exact)]
        for module in cat.written.ranks
        for exact in [update(cat, module)]
    ]
    missed, total = np.sum(sums, axis=0)
    assert linear.metrics["missed"] == pytest.approx(missed / total, rel=1e-4) and linear.metrics["rank"] == 4
    normal = merge(paths, "cat", weight=[0.3, 0.6], normalize=1.0)
    np.testing.assert_allclose(update(normal), wanted / 0.9, atol=1e-6)


def test_svd_is_the_best_of_its_rank(tmp_path: Path) -> None:
    _, paths = two(tmp_path)
    wanted = own_update(paths[0]) + own_update(paths[1])
    s = np.linalg.svd(wanted, compute_uv=False)
    for rank in (1, 3, 8):
        merged = merge(paths, "svd", rank=rank)
        assert merged.written.ranks[NAME] == rank
        lost = np.linalg.norm(update(merged) - wanted)
        assert lost == pytest.approx(np.sqrt(np.square(s[rank:]).sum()), abs=2e-5)


@pytest.mark.parametrize("method", ["ties", "dare_linear", "dare_ties", "magnitude_prune"])
def test_pruned_updates_are_decomposed(tmp_path: Path, method: str) -> None:
    """With every element left and the full rank these are plain sums, or TIES without a trim."""
    _, paths = two(tmp_path)
    one, other = own_update(paths[0]), own_update(paths[1])
    full = merge(paths, method, rank=32, density=[1.0, 1.0], normalize=0.0)
    elected = np.where(np.sign(one) == np.sign(other), one + other, np.where(abs(one) > abs(other), one, other))
    np.testing.assert_allclose(update(full), elected if "ties" in method else one + other, atol=2e-6)
    small = merge(paths, method, density=[0.5, 0.5])
    assert small.written.ranks[NAME] == 4 and 0 < small.metrics["missed"] < 1
    again = merge(paths, method, density=[0.5, 0.5])
    other_seed = merge(paths, method, density=[0.5, 0.5], seed=7)
    assert np.array_equal(update(small), update(again))
    assert np.allclose(update(small), update(other_seed), atol=1e-5) is not method.startswith("dare")


def test_magnitude_prune_keeps_the_largest(tmp_path: Path) -> None:
    _, paths = two(tmp_path)
    wanted = np.zeros((32, 32), dtype=np.float32)
    for path in paths:
        own = own_update(path).reshape(-1)
        keep = np.argsort(-np.abs(own), kind="stable")[: len(own) // 4]
        wanted.reshape(-1)[keep] += own[keep]
    merged = merge(paths, "magnitude_prune", rank=32, density=[0.25, 0.25])
    np.testing.assert_allclose(update(merged), wanted, atol=2e-6)


def test_a_module_of_one_adapter_alone_and_ranks_that_differ(tmp_path: Path) -> None:
    base, first, _ = make(tmp_path, seed=0, target_modules=["q_proj"], r=2)
    _, second, _ = make(tmp_path, seed=1, target_modules=["q_proj", "o_proj"], r=5)
    merged = merge([first, second], "cat", weight=[2.0, 3.0])
    assert merged.written.ranks[NAME] == 7 and merged.written.ranks["model.layers.0.self_attn.o_proj"] == 5
    alone = update(merged, "model.layers.0.self_attn.o_proj")
    np.testing.assert_allclose(alone, 3 * own_update(second, "model.layers.0.self_attn.o_proj"), atol=2e-6)
    with pytest.raises(RequestError, match="linear needs equal ranks"):
        merge([first, second], "linear")
    # Patterns of ranks survive the way through PEFT.
    place = write_adapter(merged.written, tmp_path / "merged", from_name(str(base)))
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(place))
    delta = model.get_submodule(f"base_model.model.{NAME}").get_delta_weight("default").detach().numpy()
    np.testing.assert_allclose(delta, 2 * own_update(first) + 3 * own_update(second), atol=2e-6)


def test_token_rows_are_averaged_and_whole_modules_kept(tmp_path: Path) -> None:
    _, first, _ = make(tmp_path, seed=0, target_modules=["q_proj"], trainable_token_indices=[1, 4])
    _, second, _ = make(tmp_path, seed=1, target_modules=["q_proj"], trainable_token_indices=[4, 9])
    _, third, _ = make(tmp_path, seed=2, target_modules=["q_proj"], modules_to_save=["norm"])
    merged = merge([first, second, third], "cat", weight=[1.0, 3.0, 1.0])
    assert merged.written.token_rows == {"model.embed_tokens": [1, 4, 9]}
    key = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    one, other = (load_file(path / "adapter_model.safetensors")[key] for path in (first, second))
    rows = np.asarray(merged.written.tensors[key][2])
    np.testing.assert_allclose(rows, np.stack([one[0], 0.25 * one[1] + 0.75 * other[0], other[1]]), atol=1e-6)
    assert "norm" in merged.written.modules_to_save
    _, fourth, _ = make(tmp_path, seed=3, target_modules=["q_proj"], modules_to_save=["norm"])
    with pytest.raises(RequestError, match="both hold"):
        merge([third, fourth], "cat")


@pytest.mark.parametrize("method", ["slerp", "nuslerp", "multislerp", "karcher"])
def test_spherical_means_of_factors_are_refused_with_the_reason(tmp_path: Path, method: str) -> None:
    _, paths = two(tmp_path)
    with pytest.raises(RequestError, match="is the same update for every M"):
        alignkit.train("merge", [*words(tmp_path, paths), f"merge.method={method}", "merge.into=adapter"])
    assert not list((tmp_path / "runs").glob("*/model"))


def test_dora_is_refused_with_the_reason(tmp_path: Path) -> None:
    _, paths = two(tmp_path, use_dora=True)
    with pytest.raises(RequestError, match="depends on the weights of its base"):
        merge(paths, "cat")


def test_the_common_base(tmp_path: Path) -> None:
    base, paths = two(tmp_path)
    sources = [from_name(str(path)) for path in paths]
    found = common_base(sources)
    assert found is not None and found.path == base
    assert common_base([*sources, from_name(str(base))]) is None
    assert common_base([sources[0], from_name(f"{tmp_path / 'adapter0'}+{paths[1]}")]) is None


def words(tmp_path: Path, paths: list[Path]) -> list[str]:
    return [f"merge.models=[{','.join(map(str, paths))}]", f"run.root={tmp_path / 'runs'}"]


@pytest.mark.parametrize("method", ["linear", "cat", "svd", "ties", "dare_ties", "magnitude_prune"])
def test_through_the_recipe(tmp_path: Path, method: str) -> None:
    """Two adapters in, an adapter out that PEFT and alignkit load, with the tokenizer of the first."""
    base, paths = two(tmp_path)
    result = alignkit.train("merge", [*words(tmp_path, paths), f"merge.method={method}"])
    place = Path(result["path"])
    config = json.loads((place / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base) and (place / "README.md").exists()
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(place))
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    found = model.get_submodule(f"base_model.model.{NAME}").get_delta_weight("default").detach().numpy()
    if method == "cat":
        np.testing.assert_allclose(found, own_update(paths[0]) + own_update(paths[1]), atol=2e-6)
    assert np.abs(found).max() > 0
    again = alignkit.train("merge", [*words(tmp_path, paths), f"merge.method={method}"])
    assert again["reused"] and again["path"] == result["path"]


def test_options_of_whole_models_are_refused(tmp_path: Path) -> None:
    _, paths = two(tmp_path)
    with pytest.raises(RequestError) as caught:
        alignkit.train(
            "merge",
            [*words(tmp_path, paths), "merge.method=cat", "merge.dtype=bf16", "merge.rank=3", "merge.density=0.5"],
        )
    wheres = {fault.where.partition(" ")[0] for fault in caught.value.faults}
    assert wheres == {"merge.dtype", "merge.rank", "merge.density"}


def test_the_recipe_knows_the_methods() -> None:
    from alignkit.stages.merge import recipe

    assert set(recipe.ADAPTER_METHODS) == set(ADAPTER_METHODS)


def test_stretched_positions_are_carried_on_and_must_agree(tmp_path: Path) -> None:
    """What an adapter notes of rotary positions goes into the merged adapter, and into a whole model's config."""
    from transformers import AutoConfig

    from alignkit.config.rope import RopeOptions
    from alignkit.models.rope import plan_rope
    from alignkit.models.rope.carried import noted_plan
    from alignkit.stages.merge.adapters import open_adapted

    base, paths = two(tmp_path)
    config = AutoConfig.from_pretrained(base)
    plans = [plan_rope(config, RopeOptions(), target) for target in (2048, 4096)]

    def note(path: Path, number: int) -> None:
        noted = {"base": {"kind": "directory", "path": str(base)}, "rope": plans[number].as_dict()}
        (path / "alignkit.json").write_text(json.dumps(noted))

    for path in paths:
        note(path, 0)
    source = from_name(str(paths[0]))
    assert source.parent is not None
    out = write_adapter(merge(paths, "cat").written, tmp_path / "out", source.parent)
    assert noted_plan(from_name(str(out))) == plans[0]
    whole = open_adapted(source).config
    assert whole["rope_parameters"] == plans[0].parameters and whole["max_position_embeddings"] == 2048
    assert whole["rope_theta"] == 10000.0 and whole["rope_scaling"]["factor"] == 4.0
    note(paths[1], 1)
    faults = [str(fault) for fault in check(opened(*paths), "cat")]
    assert any("stretched differently" in fault for fault in faults), faults
