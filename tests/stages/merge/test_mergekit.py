"""mergekit's YAML, read as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alignkit.config.compose import compose
from alignkit.errors import RequestError
from alignkit.stages.merge.mergekit import read_mergekit
from alignkit.stages.merge.parameters import value_at
from alignkit.stages.merge.recipe import Rule

BENCH = Path(__file__).parents[4] / "shared" / "bench" / "mergekit"


LAYER = r"^(?=(?:.*\.)?\d+\.)"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.layers.0.mlp.up_proj.weight", 0.0),
        ("model.layers.1.mlp.up_proj.weight", 1.0),
        ("h.1.mlp.c_fc.weight", 1.0),
        ("model.norm.weight", 0.0),  # in no layer: the first value, where recipes of our own take the last one
        ("lm_head.weight", 0.0),
    ],
)
def test_a_gradient_means_what_it_means_to_mergekit(here: Path, name: str, value: float) -> None:
    models = "models: [{model: o/a}, {model: o/b}]\nmerge_method: slerp\n"
    rules = [Rule(**rule) for rule in read_mergekit(write(here, models + "parameters: {t: [0, 1]}"))["t"]]
    assert value_at(rules, name, 0.0 if ".0." in name else 1.0) == value


def write(here: Path, text: str) -> Path:
    file = here / "merge.yml"
    file.write_text(text)
    return file


def test_a_gradient_recipe_as_people_share_it(here: Path) -> None:
    file = write(
        here,
        """
slices:
  - sources:
      - {model: psmathur/orca_mini_v3_13b, layer_range: [0, 40]}
      - {model: garage-bAInd/Platypus2-13B, layer_range: [0, 40]}
merge_method: slerp
base_model: psmathur/orca_mini_v3_13b
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
dtype: float16
""",
    )
    assert read_mergekit(file) == {
        "method": "slerp",
        "t": [
            {"match": LAYER + ".*self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
            {"match": "self_attn", "value": 0},
            {"match": LAYER + ".*mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
            {"match": "mlp", "value": 1},
            {"match": None, "value": 0.5},
        ],
        "dtype": "fp16",
        "models": [{"name": "psmathur/orca_mini_v3_13b"}, {"name": "garage-bAInd/Platypus2-13B"}],
        "slices": [{"sources": [{"model": 0, "layers": [0, 40]}, {"model": 1, "layers": [0, 40]}]}],
    }


def test_task_vectors_with_the_base_among_the_models(here: Path) -> None:
    file = write(
        here,
        """
models:
  - model: org/base
  - model: org/one
    parameters: {density: [1, 0.7, 0.1], weight: 1.0}
  - model: org/two+org/lora
    parameters:
      weight:
        - {filter: mlp, value: 0.5}
        - {value: 0}
merge_method: ties
base_model: org/base
parameters: {normalize: true, int8_mask: true, lambda: 1.1}
out_dtype: bfloat16
dtype: float32
tokenizer_source: union
""",
    )
    assert read_mergekit(file) == {
        "method": "ties",
        "density": 1.0,  # what mergekit means by nothing
        "normalize": True,
        "scaling": 1.1,
        "dtype": "bf16",
        "models": [
            {
                "name": "org/one",
                "density": [{"match": LAYER, "value": [1, 0.7, 0.1]}, {"match": None, "value": 1}],
                "weight": 1.0,
            },
            {
                "name": "org/two+org/lora",
                "weight": [{"match": "mlp", "value": 0.5}, {"match": None, "value": 0}],
            },
        ],
        "base": {"name": "org/base"},
        "tokenizer": "union",
    }


def test_a_stack_of_layers(here: Path) -> None:
    file = write(
        here,
        """
merge_method: passthrough
slices:
  - sources: [{model: org/a, layer_range: [0, 24]}]
  - sources: [{model: org/b, layer_range: [8, 32], parameters: {scale: [{filter: down_proj, value: 0}, {value: 1}]}}]
  - sources: [{model: org/a, layer_range: [24, 32]}]
dtype: bfloat16
tokenizer: {source: org/b, pad_to_multiple_of: 8}
""",
    )
    found = read_mergekit(file)
    assert [one["name"] for one in found["models"]] == ["org/a", "org/b"]
    assert [one["sources"][0]["model"] for one in found["slices"]] == [0, 1, 0]
    assert found["slices"][1]["sources"][0]["scale"][0] == {"match": "down_proj", "value": 0}
    assert (found["tokenizer"], found["pad_to_multiple"]) == ("org/b", 8)


def test_the_base_among_the_sources_of_slices_counts_as_no_model(here: Path) -> None:
    file = write(
        here,
        """
merge_method: dare_ties
base_model: org/base
slices:
  - sources:
      - {model: org/base, layer_range: [0, 2]}
      - {model: org/a, layer_range: [0, 2], parameters: {weight: 0.4}}
      - {model: org/b, layer_range: [0, 2]}
""",
    )
    found = read_mergekit(file)
    assert found["models"] == [{"name": "org/a"}, {"name": "org/b"}]
    assert found["base"] == {"name": "org/base"}
    assert found["slices"][0]["sources"] == [
        {"model": 0, "layers": [0, 2], "weight": 0.4},
        {"model": 1, "layers": [0, 2]},
    ]


def test_a_directory_here_is_a_path(here: Path) -> None:
    (here / "one").mkdir()
    file = write(here, "models: [{model: one}, {model: two}]\nmerge_method: linear\n")
    assert [one["name"] for one in read_mergekit(file)["models"]] == ["./one", "two"]


def test_the_filter_is_plain_text(here: Path) -> None:
    text = (
        "models: [{model: o/a}, {model: o/b}]\nmerge_method: slerp\nparameters: {t: [{filter: layers.1.mlp, value: 0}]}"
    )
    assert read_mergekit(write(here, text))["t"][0]["match"] == r"layers\.1\.mlp"


def test_everything_that_is_not_supported_is_named_at_once(here: Path) -> None:
    file = write(
        here,
        """
models:
  - model: org/a
    parameters: {colour: 1, weight: heavy}
    unknown: 1
merge_method: linear
modules: {}
chat_template: chatml
dtype: int8
tokenizer: {source: base, tokens: {}}
""",
    )
    with pytest.raises(RequestError) as caught:
        read_mergekit(file)
    text = str(caught.value)
    for word in ("modules", "chat_template", "colour", "heavy", "unknown", "int8", "tokenizer.tokens"):
        assert word in text
    assert len(caught.value.faults) == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", "no mapping"),
        ("a: [", "no YAML"),
        ("merge_method: linear\n", "either models or slices"),
        ("models: []\nslices: []\nmerge_method: linear\n", "either models or slices"),
        ("models: 3\nmerge_method: linear\n", "list of mappings"),
        ("models: [{model: {}}]\nmerge_method: linear\n", "no reference to a model"),
        ("models: [{model: o/a}]\n", "must name a method"),
        ("slices: [{sources: [{model: o/a, layer_range: [1]}]}]\nmerge_method: linear\n", "[first, end]"),
    ],
)
def test_what_is_no_file_of_mergekits(here: Path, text: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_mergekit(write(here, text))
    assert said in str(caught.value)


def test_a_file_that_is_not_there(here: Path) -> None:
    composed = compose("merge", ["merge.from_mergekit=gone.yml"])
    assert "gone.yml: cannot be read" in str(composed.faults[0])


def test_the_recipe_takes_it_over_and_keys_beside_it_win(here: Path) -> None:
    file = write(here, "models: [{model: o/a}, {model: o/b}]\nmerge_method: slerp\nparameters: {t: 0.3}\n")
    composed = compose("merge", [f"merge.from_mergekit={file}", "merge.t=0.9"]).checked()
    recipe: Any = composed.recipe
    assert (recipe.merge.method, recipe.merge.t, recipe.merge.from_mergekit) == ("slerp", 0.9, None)
    assert [model.name for model in recipe.merge.models] == ["o/a", "o/b"]
    assert composed.origins["merge.models"] == str(file)
    assert composed.origins["merge.t"] == "command line"


@pytest.mark.parametrize("name", ["linear", "task_arithmetic", "slerp", "ties", "dare_ties"])
def test_the_benchmarks_files(here: Path, name: str) -> None:
    file = BENCH / f"{name}.yml"
    if not file.exists():
        pytest.skip("the benchmark's files are not on this machine")
    composed = compose("merge", [f"merge.from_mergekit={file}"]).checked()
    recipe: Any = composed.recipe
    assert recipe.merge.method == name
    assert recipe.merge.dtype == "bf16"
