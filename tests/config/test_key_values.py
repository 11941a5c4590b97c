"""Which values decide the weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignkit.config.key_values import decisive, operational
from alignkit.config.provenance import leaves
from alignkit.config.recipe import GradientRecipe
from alignkit.config.schema import read_schema
from alignkit.config.stages import recipe_class
from tests.config.conftest import NAMED, fine

CHANGES = [
    "adapter.rank=4",
    "optimizer.learning_rate=1e-3",
    "seed=1",
    "batch.size=4",
    "data.max_length=64",
    "trl.torch_compile=true",
    "sft.loss=dft",
    "model.dtype=fp32",
]
NO_CHANGES = [
    "evaluation.rows=3",
    "save=merged",
    "checkpoint.every=7",
    "batch.micro=2",
    "report_to=none",
    "run.root=elsewhere",
    "memory.gradient_checkpointing=true",
]


@pytest.mark.parametrize("word", CHANGES)
def test_what_decides_the_weights(here: Path, word: str) -> None:
    plain, changed = fine("lora", *NAMED).recipe, fine("lora", *NAMED, word).recipe
    assert decisive(changed) != decisive(plain)
    assert operational(changed) == operational(plain)


@pytest.mark.parametrize("word", NO_CHANGES)
def test_what_leaves_them_alone(here: Path, word: str) -> None:
    plain, changed = fine("lora", *NAMED).recipe, fine("lora", *NAMED, word).recipe
    assert decisive(changed) == decisive(plain)


def test_each_value_is_on_one_side(here: Path) -> None:
    recipe = fine("lora", *NAMED, "trl.torch_compile=true").recipe
    schema = read_schema(recipe_class("lora", "test"))

    def keys(part: dict[str, object]) -> set[str]:
        found = (schema.find(".".join(place)) for place, _ in leaves(part))
        return {leaf.key for leaf in found if leaf is not None}

    one, other = keys(decisive(recipe)), keys(operational(recipe))
    assert one | other == set(schema.leaves)
    assert not one & other
    assert other == {key for key, leaf in schema.leaves.items() if leaf.operational}


@pytest.mark.parametrize(("one", "other"), [("2e-4", "0.0002"), ("1", "1.0"), ("1e-0", "1")])
def test_spelling_decides_nothing(here: Path, one: str, other: str) -> None:
    first, second = (decisive(fine("lora", *NAMED, f"optimizer.learning_rate={text}").recipe) for text in (one, other))
    assert first == second
    assert repr(first) == repr(second)


def test_auto_stays_auto(here: Path) -> None:
    assert decisive(fine("lora", *NAMED).recipe)["model"]["dtype"] == "auto"


def test_docs_stand_below_every_key() -> None:
    """`recipes copy` prints them, so a field without one is a hole."""
    from alignkit.config.schema import field_docs

    for leaf in read_schema(recipe_class("lora", "test")).leaves.values():
        assert field_docs(leaf.owner).get(leaf.key.rpartition(".")[2]), f"{leaf.key} has no docstring"
    assert field_docs(GradientRecipe)["seed"]
