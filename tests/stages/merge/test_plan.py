"""Names, depths, parameters, slices and ties: what a plan is made of, without computing anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignkit.config.compose import compose
from alignkit.stages.merge.architecture import Layers, common_names, find_layers, output_head, token_embedding
from alignkit.stages.merge.check import plan_of
from alignkit.stages.merge.parameters import interpolate, value_at
from alignkit.stages.merge.plan import Plan, Planned
from alignkit.stages.merge.recipe import Rule
from tests.stages.merge.models import change_config, mixed, save


def planned(*words: str) -> Plan:
    recipe: Any = compose("merge", words).checked().recipe
    plan, faults = plan_of(recipe)
    assert plan is not None and not faults, [str(fault) for fault in faults]
    return plan


def tensor(plan: Plan, name: str) -> Planned:
    return next(one for one in plan.tensors if one.name == name)


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "config", "found"),
    [
        (["model.embed.weight", "model.layers.0.a.weight", "model.layers.1.a.weight"], {}, ("model.layers.", 2)),
        (["transformer.h.0.a", "transformer.h.1.a", "transformer.wte.weight"], {}, ("transformer.h.", 2)),
        (["h.0.ln_1.weight", "h.1.ln_1.weight"], {}, ("h.", 2)),
        # the experts of a layer are no layers, whichever are more
        ([f"m.layers.{i}.experts.{j}.w1.weight" for i in range(2) for j in range(8)], {}, ("m.layers.", 2)),
        # an encoder of pictures beside the decoder: config.json says which is which
        (
            [f"vision.blocks.{i}.x.weight" for i in range(5)] + [f"text.layers.{i}.x.weight" for i in range(3)],
            {"text_config": {"num_hidden_layers": 3}},
            ("text.layers.", 3),
        ),
        (["a.weight", "b.weight"], {}, ("", 0)),
        (["x.1.weight", "x.2.weight"], {}, ("", 0)),
    ],
)
def test_the_layers_are_told_by_the_names(names: list[str], config: dict[str, Any], found: tuple[str, int]) -> None:
    layers = find_layers(names, config)
    assert (layers.prefix, layers.count) == found


def test_depths() -> None:
    layers = Layers("model.layers.", 5)
    assert layers.depth("model.embed_tokens.weight") == 0
    assert [layers.depth(f"model.layers.{i}.mlp.up_proj.weight") for i in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert layers.depth("model.norm.weight") == layers.depth("lm_head.weight") == 1
    assert layers.of("model.layers.3.x") == 3
    assert layers.renamed("model.layers.3.x.y", 7) == "model.layers.7.x.y"


def test_embedding_and_head() -> None:
    shapes = {"wte.weight": (100, 8), "wpe.weight": (512, 8), "lm_head.weight": (100, 8), "h.0.mlp.weight": (100, 8)}
    assert token_embedding(shapes, {"vocab_size": 100}) == "wte.weight"
    assert output_head(shapes, "wte.weight") == "lm_head.weight"
    assert output_head({"wte.weight": (100, 8)}, "wte.weight") is None


def test_a_prefix_is_passed_over() -> None:
    whole = ["transformer.h.0.a", "transformer.h.1.a", "transformer.wte"]
    trunk = ["h.0.a", "h.1.a", "wte"]
    assert common_names([whole, trunk])[1] == dict(zip(whole, trunk, strict=True))
    assert common_names([trunk, whole])[1] == dict(zip(trunk, whole, strict=True))


# --- parameters ---------------------------------------------------------------------------------------------------


def test_a_list_is_interpolated() -> None:
    assert [interpolate([0, 1], depth) for depth in (0, 0.25, 1)] == [0, 0.25, 1]
    assert [interpolate([0, 0.5, 0.3], depth) for depth in (0, 0.5, 0.75, 1)] == pytest.approx([0, 0.5, 0.4, 0.3])
    assert interpolate([0.7], 0.4) == 0.7


def test_the_first_rule_that_is_found_holds() -> None:
    rules = [Rule(match="self_attn", value=[0, 1]), Rule(match=r"layers\.1\.", value=3.0), Rule(value=5.0)]
    assert value_at(rules, "layers.1.self_attn.q.weight", 0.5) == 0.5
    assert value_at(rules, "layers.1.mlp.up.weight", 0.5) == 3
    assert value_at(rules, "layers.2.mlp.up.weight", 0.5) == 5
    assert value_at(rules[:1], "layers.2.mlp.up.weight", 0.5) is None


def test_what_is_near_stands_before_what_is_far(llamas: Path) -> None:
    a, b = llamas / "a", llamas / "b"
    plan = planned(f"merge.models=[{{name: {a}, weight: [{{match: mlp, value: 0.25}}]}}, {b}]", "merge.weight=0.75")
    assert tensor(plan, "model.layers.0.mlp.up_proj.weight").values["weight"] == [0.25, 0.75]
    assert tensor(plan, "model.layers.0.self_attn.q_proj.weight").values["weight"] == [0.75, 0.75]
    assert tensor(plan, "lm_head.weight").values["normalize"] == 1.0  # the method's default


def test_a_gradient_over_the_depth(llamas: Path) -> None:
    models = f"merge.models=[{llamas / 'deep'},{llamas / 'deep'}]"
    plan = planned(models, "merge.method=slerp", "merge.t=[0,1]")
    ts = [tensor(plan, f"model.layers.{layer}.mlp.up_proj.weight").values["t"] for layer in range(4)]
    assert ts == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert tensor(plan, "model.embed_tokens.weight").values["t"] == 0
    assert tensor(plan, "lm_head.weight").values["t"] == 1


def test_a_pattern_that_fits_nothing_is_told(llamas: Path) -> None:
    models = f"merge.models=[{llamas / 'a'},{llamas / 'b'}]"
    plan = planned(models, "merge.weight=[{match: self_atn, value: 0.5}, {value: 1}]")
    assert any("'self_atn' is found in the name of no tensor" in remark for remark in plan.remarks)


# --- layers -------------------------------------------------------------------------------------------------------


def test_slices(llamas: Path) -> None:
    plan = planned(
        f"merge.models=[{llamas / 'a'},{llamas / 'deep'}]",
        "merge.method=slerp",
        "merge.t=0.5",
        "merge.slices=[{sources: [{model: 0, layers: [0, 1]}]},"
        "{t: [0, 1], sources: [{model: 0, layers: [0, 2]}, {model: 1, layers: [2, 4]}]}]",
    )
    name = "model.layers.{}.mlp.up_proj.weight"
    assert plan.config["num_hidden_layers"] == 3
    assert len(plan.tensors) == 3 + 3 * 9
    first, second, third = (tensor(plan, name.format(layer)) for layer in range(3))
    assert first.copied and first.inputs == [(0, name.format(0))]
    assert second.inputs == [(0, name.format(0)), (1, name.format(2))] and second.values["t"] == 0
    assert third.inputs == [(0, name.format(1)), (1, name.format(3))] and third.values["t"] == 1
    # below the first layer the first slice holds, above the last the last one
    assert tensor(plan, "model.embed_tokens.weight").copied
    assert [at for at, _ in tensor(plan, "lm_head.weight").inputs] == [0, 1]


def test_lists_with_an_entry_a_layer_follow(tmp_path: Path) -> None:
    place = save(tmp_path / "q", "qwen2", 0, layers=4)
    change_config(place, layer_types=["full_attention", "sliding_attention", "full_attention", "sliding_attention"])
    plan = planned(
        f"merge.models=[{place}]",
        "merge.method=passthrough",
        "merge.slices=[{sources: [{model: 0, layers: [0, 2]}]}, {sources: [{model: 0, layers: [1, 4]}]}]",
    )
    full, sliding = "full_attention", "sliding_attention"
    assert plan.config["num_hidden_layers"] == 5
    assert plan.config["layer_types"] == [full, sliding, sliding, full, sliding]


# --- ties, formats ------------------------------------------------------------------------------------------------


def test_tied_all(tmp_path: Path) -> None:
    places = [save(tmp_path / str(seed), "llama-tied", seed) for seed in range(2)]
    plan = planned(f"merge.models=[{places[0]},{places[1]}]")
    assert "lm_head.weight" not in [one.name for one in plan.tensors]
    assert plan.config["tie_word_embeddings"] is True


@pytest.mark.parametrize("first", ["tied", "untied"])
def test_one_tied_one_not(tmp_path: Path, llamas: Path, first: str) -> None:
    tied, untied = save(tmp_path / "tied", "llama-tied", 7), llamas / "a"
    order = [tied, untied] if first == "tied" else [untied, tied]
    plan = planned(f"merge.models=[{order[0]},{order[1]}]")
    head = tensor(plan, "lm_head.weight")
    assert head.inputs[order.index(tied)][1] == "model.embed_tokens.weight"
    assert head.inputs[order.index(untied)][1] == "lm_head.weight"
    assert plan.config["tie_word_embeddings"] is False


def test_formats(tmp_path: Path, llamas: Path) -> None:
    half = mixed(tmp_path / "half", llamas / "b")
    plan = planned(f"merge.models=[{half},{llamas / 'a'}]")
    assert tensor(plan, "lm_head.weight").dtype == "F16"
    assert tensor(plan, "model.norm.weight").dtype == "F32"
    plan = planned(f"merge.models=[{half},{llamas / 'a'}]", "merge.dtype=bf16")
    assert {one.dtype for one in plan.tensors} == {"BF16"}
    assert plan.config["dtype"] == "bfloat16"
    assert plan.nbytes == sum(2 * _count(one.shape) for one in plan.tensors)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def test_the_base_leads(llamas: Path, tmp_path: Path) -> None:
    base = mixed(tmp_path / "base", llamas / "base")
    change_config(base, rope_parameters={"rope_theta": 5000.0, "rope_type": "default"})
    plan = planned(f"merge.models=[{llamas / 'a'}]", "merge.method=task_arithmetic", f"merge.base={base}")
    head = tensor(plan, "lm_head.weight")
    assert (head.dtype, head.base, head.inputs) == ("F16", "lm_head.weight", [(0, "lm_head.weight")])
    assert plan.config["rope_parameters"]["rope_theta"] == 5000.0
    assert any(remark.startswith("rope_parameters is") for remark in plan.remarks)


def test_the_digest_tells_plans_apart(llamas: Path) -> None:
    models = f"merge.models=[{llamas / 'a'},{llamas / 'b'}]"
    same = planned(models).digest()
    assert planned(models).digest() == same
    assert len({same, planned(models, "merge.weight=[0,1]").digest(), planned(models, "seed=1").digest()}) == 3


def test_a_plan_is_json(llamas: Path) -> None:
    plan = planned(f"merge.models=[{llamas / 'a'},{llamas / 'b'}]")
    assert json.loads(json.dumps(plan.config)) == plan.config
