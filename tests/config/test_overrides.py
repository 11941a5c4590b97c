"""What people type after the `=`: numbers, lists, and paths with any character in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alignkit.config.overrides import UnreadableError, read_text, split
from tests.config.conftest import NAMED, fine, told

PATHS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=30).filter(
    lambda text: "${" not in text and "/" not in text
)


@given(
    name=PATHS, prefix=st.sampled_from(["./", "../", "/tmp/", "~/"]), suffix=st.sampled_from(["", ".jsonl", ".gguf"])
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_path_arrives_as_it_was_typed(name: str, prefix: str, suffix: str) -> None:
    text = f"{prefix}{name}{suffix}"
    recipe: Any = fine("lora", f"model={text}", f"data.name={text}").recipe
    assert recipe.model.name == text
    assert recipe.data.name == text


@pytest.mark.parametrize(
    "text",
    ["a b.jsonl", "a=b.jsonl", "(1).jsonl", "{x}.jsonl", "#1.jsonl", "it's.jsonl", "a,b.jsonl", "~x.jsonl", "ü ✓.jsonl",
     "12", "1e5", "true", "org/name", "C:\\x\\y.jsonl", "a$b.jsonl", "[1].jsonl", " lead.jsonl"],
)  # fmt: skip
def test_text_stays_text(text: str) -> None:
    recipe: Any = fine("lora", "model=./m", f"data={text}", f"model.revision={text}").recipe
    assert recipe.data.name == text
    assert recipe.model.revision == text


def test_quotes_within_quotes_are_taken_off() -> None:
    recipe: Any = fine("lora", "model='./a b'", 'data="x.jsonl"').recipe
    assert (recipe.model.name, recipe.data.name) == ("./a b", "x.jsonl")


def test_a_dollar_brace_can_be_written_as_it_is() -> None:
    recipe: Any = fine("lora", "model=./m", r"data=./a\${b}.jsonl").recipe
    assert recipe.data.name == "./a${b}.jsonl"


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("optimizer.learning_rate=1e-4", 1e-4),
        ("data.max_length=1e3", 1000),
        ("data.holdout=100", 100),
        ("data.holdout=0.1", 0.1),
        ("data.packing=false", False),
        ("data.rows=null", None),
        ("adapter.targets=[q_proj,v_proj]", ["q_proj", "v_proj"]),
        ("adapter.targets=[q_proj, 'v_proj']", ["q_proj", "v_proj"]),
        (r"adapter.targets=.*layers\.(0|1)\..*_proj", r".*layers\.(0|1)\..*_proj"),
        ("adapter.targets=[qv]_proj", "[qv]_proj"),
        ("adapter.rank_pattern={q_proj: 8}", {"q_proj": 8}),
        ("adapter.rank_pattern.model.layers.0=8", {"model.layers.0": 8}),
        ("adapter.layers=[0,1]", [0, 1]),
        ("report_to=wandb", ["wandb"]),
        ("report_to=[wandb,mlflow]", ["wandb", "mlflow"]),
        ("trl.torch_compile=true", {"torch_compile": True}),
        ("+trl.torch_compile=true", {"torch_compile": True}),
        ("trl.lr_scheduler_kwargs.num_cycles=2", {"lr_scheduler_kwargs": {"num_cycles": 2}}),
    ],
)
def test_values_are_read_as_their_key_wants(word: str, value: Any) -> None:
    composed = fine("lora", *NAMED, word)
    key = word.lstrip("+").partition("=")[0]
    found: Any = composed.values
    for step in key.split("."):
        found = found[step]
        if step in ("trl", "rank_pattern"):
            break
    assert found == value
    assert type(found) is type(value)


def test_the_last_of_two_wins() -> None:
    recipe: Any = fine("lora", *NAMED, "adapter.rank=4", "adapter.rank=8").recipe
    assert recipe.adapter.rank == 8


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("adapter.rank", "is not of the form key=value. Write adapter.rank=VALUE."),
        ("mine.yaml", "A recipe is given as recipe=mine.yaml."),
        ("+adapter.rank=4", "a key has no + before it. Write adapter.rank=4."),
        ("++adapter.rank=4", "a key has no + before it. Write adapter.rank=4."),
        ("~adapter.rank", "To take a value away, write adapter.rank=null."),
        ("~trl.tf32", "a key has no ~ before it"),
        ("model@x=y", "`model@x` is no key"),
        ("hydra/launcher=x", "`hydra/launcher` is no key"),
        ("=3", "`` is no key"),
        ("adapter.layers=0,1", "several values are a list: 'adapter.layers=[0,1]'"),
        ("adapter.targets=a,b", "several values are a list: 'adapter.targets=[a,b]'"),
        ("adapter.targets=[a,b", "cannot be read"),
        ("adapter.layers=range(0,3)", "cannot be read"),
        ("trl.x=a(b", "text with special characters is written in quotes within quotes: 'trl.x=\"a(b\"'"),
        ("adapter.rank=many", "adapter.rank (from the command line): is many, and must be a whole number of 1 or more"),
        ("data.rows=choice(1,2)", "is choice(1,2), and must be a whole number"),
    ],
)
def test_what_cannot_be_read_says_how_to_write_it(word: str, said: str) -> None:
    faults = told("lora", *NAMED, word)
    assert len(faults) == 1
    assert said in faults[0]
    assert "hydra" not in faults[0].replace("hydra/launcher", "").lower()


@given(text=st.text(max_size=20))
@settings(max_examples=150, deadline=None)
def test_no_text_breaks_the_reader(text: str) -> None:
    for annotation in (int, float | None, bool, str, str | list[str], list[str], dict[str, int], Any):
        try:
            read_text(text, annotation, "key")
        except UnreadableError as problem:
            assert "key=" in str(problem)


@given(words=st.lists(st.text(max_size=12), max_size=4))
@settings(max_examples=100, deadline=None)
def test_every_word_is_an_override_or_a_fault(words: list[str]) -> None:
    overrides, faults = split(words)
    assert len(overrides) + len(faults) == len(words)
    assert all(override.word.endswith(override.text) for override in overrides)


def test_a_path_that_exists_is_still_only_text(tmp_path: Path) -> None:
    file = tmp_path / "my rows (1).jsonl"
    file.write_text("{}")
    recipe: Any = fine("sft", f"model={tmp_path}", f"data={file}").recipe
    assert Path(recipe.data.name).exists()
