"""Recipes are data: nothing in one runs code, and only a few names of the environment can be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignkit.config.compose import compose
from alignkit.config.safety import FORBIDDEN_KEYS, interpolation_fault
from alignkit.errors import RequestError
from tests.config.conftest import NAMED, fine, told

Write = Callable[[str, str], Path]


@pytest.mark.parametrize("key", sorted(FORBIDDEN_KEYS))
def test_keys_that_name_code_are_refused_at_any_depth(write: Write, key: str) -> None:
    write(
        "recipes/x.yaml",
        f"defaults: [lora, _self_]\n{key}: os.system\nmodel: {{{key}: a}}\n"
        f"trl: {{a: {{{key}: b}}, c: [{{{key}: d}}]}}\n",
    )
    faults = told("x", *NAMED, f"data.{key}=os.system")
    refused = [fault for fault in faults if "never name code to run" in fault]
    places = {fault.split(" ")[0] for fault in refused}
    assert places == {key, f"model.{key}", f"trl.a.{key}", f"trl.c.0.{key}", f"data.{key}"}
    assert key not in repr(compose("x", NAMED).values)


def test_settings_of_hydra_are_no_part_of_a_recipe(write: Write) -> None:
    write("recipes/x.yaml", "defaults: [lora, _self_]\nhydra: {run: {dir: /tmp/x}}\n")
    write("recipes/y.yaml", "defaults: [lora, _self_, override hydra/job_logging: none]\n")
    for name in ("x", "y"):
        with pytest.raises(RequestError, match=r"is not a key of a recipe|may not name anything of hydra"):
            compose(name, NAMED)
    assert (
        "hydra.searchpath (from the command line): there is no such key"
        in told("lora", *NAMED, "hydra.searchpath=x")[0]
    )


def test_places_may_be_read_from_the_environment(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.delenv("WORK", raising=False)
    read: Any = fine("lora", *NAMED, "run.root=${oc.env:SCRATCH}/runs").recipe
    default: Any = fine("lora", *NAMED, "run.root=${oc.env:WORK,/tmp}/runs").recipe
    assert (read.run.root, default.run.root) == ("/scratch/me/runs", "/tmp/runs")
    assert "reads WORK from the environment, where it is not set" in told("lora", *NAMED, "run.root=${oc.env:WORK}")[0]


SECRET = [
    "${oc.env:HF_TOKEN}",
    "${oc.env:HF_TOKEN,x}",
    "x-${oc.env:HF_TOKEN}",
    "${ oc.env : HF_TOKEN }",
    "${oc.env:HOME,${oc.env:HF_TOKEN}}",
    "${oc.env:${data.split}}",
    "${${model.revision}:HF_TOKEN}",
    "${oc.${model.revision}:HF_TOKEN}",
    "${oc.decode:'${oc.env:HF_TOKEN}'}",
    "${oc.select:x,${oc.env:HF_TOKEN}}",
    "${oc.create:${oc.env:HF_TOKEN}}",
    "${oc.dict.keys:model}",
    "${hydra:runtime.cwd}",
    "${now:%Y}",
    "${custom:1}",
    "${env:HF_TOKEN}",
]


@pytest.mark.parametrize("text", SECRET)
def test_secrets_stay_in_the_environment(write: Write, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "a-secret")
    assert interpolation_fault(text)
    write(
        "recipes/x.yaml",
        f"defaults: [lora, _self_]\ntrl: {{a: \"{text}\", b: ['{{}}', \"{text}\"], c: '${{trl.a}}'}}\n",
    )
    for composed in (compose("x", NAMED), compose("lora", [*NAMED, f"model.revision={text}"])):
        assert composed.faults
        assert "a-secret" not in repr(composed.values) + "".join(map(str, composed.faults))


def test_keys_refer_to_keys_and_to_built_in_defaults(write: Write) -> None:
    write(
        "recipes/x.yaml",
        "defaults: [lora, _self_]\n"
        "adapter: {alpha: '${.rank}', rank: '${batch.size}', rank_pattern: {q: '${adapter.rank}'}}\n"
        "trl: {a: ['${seed}', 'run-${data.name}'], b: '${optimizer}'}\nmodel: '${judge}'\njudge: {name: ./m}\n",
    )
    composed = compose("x", ["data=./d.jsonl", "batch.size=32", "schedule.warmup=${evaluation.batch}"])
    recipe: Any = composed.recipe
    assert (recipe.adapter.rank, recipe.adapter.alpha, recipe.adapter.rank_pattern) == (32, 32.0, {"q": 32})
    assert recipe.schedule.warmup == 25
    assert recipe.trl["a"] == [42, "run-./d.jsonl"]
    assert recipe.trl["b"]["beta1"] == 0.9
    assert recipe.model.name == "./m"
    assert "${" not in repr(composed.values)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("seed=${nope}", "seed (from the command line): refers to nope, and there is no such value"),
        ("seed=${seed}", "seed (from the command line): refers to itself through its ${…}"),
        ("data.split=${data.config}", ""),
        ("data.split=${", "data.split (from the command line): holds a ${…} that cannot be read"),
        ("adapter.rank=${model.name}", "adapter.rank (from the command line): is ./m, and must be a whole number"),
        ("adapter.targets=['${nope}']", "adapter.targets.0 (from the command line): refers to nope"),
    ],
)
def test_a_reference_that_leads_nowhere_says_where_it_stands(here: Path, word: str, said: str) -> None:
    faults = told("lora", *NAMED, word)
    assert len(faults) == 1
    assert said in faults[0]


def test_a_circle_is_named_at_each_of_its_places(write: Write) -> None:
    write("recipes/x.yaml", "defaults: [lora, _self_]\nseed: '${batch.size}'\nbatch: {size: '${seed}'}\n")
    faults = told("x", *NAMED)
    assert len(faults) == 2
    assert all("refers to itself" in fault for fault in faults)
