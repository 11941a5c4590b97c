"""What is wrong with a recipe: all of it at once, in words, with what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignkit.config.compose import compose
from tests.config.conftest import NAMED, told

Write = Callable[[str, str], Path]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("optimizer.learning_rte", "optimizer.learning_rate"),
        ("optimizer.lr", "optimizer.learning_rate"),
        ("lr", "optimizer.learning_rate"),
        ("learning_rate", "optimizer.learning_rate"),
        ("train.learning_rate", "optimizer.learning_rate"),
        ("lora.rank", "adapter.rank"),
        ("lora_alpha", "adapter.alpha"),
        ("adaptor.rank", "adapter.rank"),
        ("num_train_epochs", "schedule.epochs"),
        ("batch_size", "batch.size"),
        ("per_device_train_batch_size", "batch.micro"),
        ("data.max_lenght", "data.max_length"),
        ("max_length", "data.max_length"),
        ("sed", "seed"),
        ("model.torch_dtype", "model.dtype"),
    ],
)
def test_an_unknown_key_gets_the_name_that_was_meant(here: Path, key: str, meant: str) -> None:
    faults = told("lora", *NAMED, f"{key}=1")
    assert len(faults) == 1
    assert faults[0] == f"{key} (from the command line): there is no such key. Did you mean {meant}?"


def test_an_unknown_key_that_resembles_nothing_gets_the_list(here: Path) -> None:
    assert "memory has: gradient_checkpointing." in told("lora", *NAMED, "memory.zzz=1")[0]
    assert "At the top level there are: stage, seed, run, launch, model, " in told("lora", *NAMED, "qqqq=1")[0]


def test_all_faults_come_at_once_each_with_its_origin(write: Write) -> None:
    write(
        "recipes/bad.yaml",
        "defaults: [lora, _self_]\nmodel: smollm2-135m\nlora: {rank: 8}\nadapter: {rank: 0, dropout: 2}\n"
        "optimizer.learning_rate: 1e-4\nbatch: {size: 8}\n",
    )
    faults = told("bad", "batch.micro=3", "data.packing=maybe", "trl.learning_rate=1")
    text = "\n".join(faults)
    origin = "(from ./recipes/bad.yaml)"
    assert f"model {origin}: is a section, and cannot be 'smollm2-135m'" in text
    assert "choose one under `defaults:` (`- model: NAME`)" in text
    assert f"lora.rank {origin}: there is no such key. Did you mean adapter.rank?" in text
    assert f"adapter.rank {origin}: is 0, and must be a whole number of 1 or more" in text
    assert f"adapter.dropout {origin}: is 2, and must be a number from 0 to below 1" in text
    assert f"optimizer.learning_rate {origin}: a key in a file has no dots" in text
    assert "Write `optimizer: {learning_rate: …}`." in text
    assert "data.name: is required, and nothing sets it. Write data=…" in text
    assert "batch.micro (from the command line): 3 does not divide batch.size=8" in text
    assert "data.packing (from the command line): is maybe, and must be true or false" in text
    assert (
        "trl.learning_rate (from the command line): alignkit sets this itself. Write optimizer.learning_rate=…" in text
    )
    assert len(faults) == 10  # model.name is missing too


def test_the_recipe_stays_usable_where_values_are_wrong(here: Path) -> None:
    composed = compose("lora", ["data=./d.jsonl", "adapter.rank=zero", "optimizer.learning_rate=-1"])
    recipe: Any = composed.recipe
    assert (recipe.model.name, recipe.data.name, recipe.adapter.rank) == ("", "./d.jsonl", 16)
    assert recipe.optimizer.learning_rate > 0
    assert len(composed.faults) == 3


def test_a_broken_value_brings_no_second_fault(here: Path) -> None:
    """quantization without an adapter is a fault, but not when the adapter's kind could not be read."""
    assert len(told("sft", *NAMED, "quantization=nf4")) == 1
    assert len(told("sft", *NAMED, "quantization=nf4", "adapter.kind=lorra")) == 1
    assert len(told("lora", *NAMED, "batch.micro=3", "batch.size=x")) == 1


def test_an_empty_name_is_no_name(here: Path) -> None:
    faults = told("lora", "model=", "data=./d.jsonl")
    assert len(faults) == 1
    assert faults[0].startswith("model.name (from the command line): is required, and nothing sets it. Write model=…")


def test_a_value_in_the_wrong_form_for_a_section(here: Path, write: Write) -> None:
    write("recipes/empty.yaml", "defaults: [lora, _self_]\nschedule:\n")
    assert "schedule (from ./recipes/empty.yaml): is a section, and is left empty" in told("empty", *NAMED)[0]
    assert (
        "adapter.rank (from the command line): is {'x': 1}, and must be" in told("lora", *NAMED, "adapter.rank.x=1")[0]
    )


@pytest.mark.parametrize("stage", ["lroa", "", "null", "../sft"])
def test_an_unknown_stage(here: Path, stage: str) -> None:
    from alignkit.errors import RequestError

    with pytest.raises(RequestError, match=r"stage \(from the command line\): there is no stage"):
        compose("lora", [*NAMED, f"stage={stage}"])


def test_a_stage_can_be_changed(here: Path) -> None:
    composed = compose("lora", [*NAMED, "stage=sft", "adapter=none"]).checked()
    assert (composed.stage, composed.recipe.stage) == ("sft", "sft")


def test_no_fault_speaks_of_libraries(write: Write) -> None:
    write("recipes/bad.yaml", "defaults: [lora, _self_]\nseed: {a: 1}\nmodel: [1]\nadapter: {targets: {a: 1}}\n")
    words = ["data.rows=[1,2]", "schedule.warmup=x", "batch.micro={a: 1}", "report_to=[x]", "trl=3", "seed.x=${y}"]
    text = "\n".join(told("bad", *words)).lower()
    assert text.count("\n") > 6
    for foreign in ("pydantic", "hydra", "omegaconf", "annotated", "typing", "literal", "nonetype", "dictconfig"):
        assert foreign not in text


def test_options_of_an_adapter_that_is_not_there_are_not_passed_over(here: Path) -> None:
    (fault,) = told("dpo", *NAMED, "adapter.rank=8")
    assert fault.startswith("adapter.rank (from the command line): is set, and there is no adapter")
    assert not told("dpo", *NAMED, "adapter=lora", "adapter.rank=8")
    assert not told("dpo", *NAMED, "adapter=none")
