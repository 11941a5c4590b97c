"""`model=…`, `data=…`, `adapter=…`: a file of the group, or the section's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from alignkit.config.compose import compose
from alignkit.config.recipe import GradientRecipe
from alignkit.config.sections import Model
from tests.config.conftest import NAMED, fine, told

Write = Callable[[str, str], Path]
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_a_name_of_the_group_brings_its_values(here: Path) -> None:
    composed = fine("lora", "model=smollm2-135m", "data=tickets")
    recipe: Any = composed.recipe
    assert recipe.model.name == SMOLLM2
    assert recipe.model.installed_file is not None
    assert composed.origins["model.name"] == "recipes/model/smollm2-135m.yaml"


@pytest.mark.parametrize("word", ["model.name=smollm2-135m", "model=smollm2-135m.yaml", "model='smollm2-135m'"])
def test_other_spellings_of_a_group_name(here: Path, word: str) -> None:
    recipe: Any = fine("lora", word, "data=./d").recipe
    assert recipe.model.name == SMOLLM2


def test_a_group_that_the_recipe_does_not_choose_is_added(here: Path) -> None:
    recipe: Any = fine("lora", *NAMED, "quantization=nf4").recipe
    assert recipe.quantization.kind == "nf4"


def test_a_group_that_the_recipe_chooses_is_replaced(here: Path) -> None:
    recipe: Any = fine("lora", *NAMED, "adapter=dora").recipe
    assert recipe.adapter.kind == "dora"


def test_a_plain_name_takes_the_old_choice_out(here: Path) -> None:
    """The quickstart's group sets rows and a package's file; neither may stay for another name."""
    recipe: Any = fine("quickstart", *NAMED).recipe
    shipped: Any = fine("quickstart").recipe
    assert shipped.model.installed_file is not None
    assert shipped.data.rows is not None
    assert (recipe.model.name, recipe.model.installed_file) == ("./m", None)
    assert (recipe.data.name, recipe.data.rows) == ("./d.jsonl", None)


def test_what_was_said_of_another_name_is_dropped(write: Write) -> None:
    write("recipes/child.yaml", "defaults: [quickstart, _self_]\nmodel: {name: ./mine}\n")
    write("recipes/same.yaml", f"defaults: [quickstart, _self_]\nmodel: {{name: {SMOLLM2}}}\n")
    write("recipes/pinned.yaml", "defaults: [lora, _self_]\nmodel: {name: org/x, revision: abc}\n")
    child: Any = fine("child").recipe
    same: Any = fine("same").recipe
    pinned: Any = fine("pinned", "data=x").recipe
    moved: Any = fine("pinned", "data=x", "model=org/y").recipe
    kept: Any = fine("pinned", "data=x", "model.revision=def", "model=org/y").recipe
    assert child.model.installed_file is None
    assert same.model.installed_file is not None
    assert (pinned.model.revision, moved.model.revision, kept.model.revision) == ("abc", None, "def")


def test_the_command_line_wins_over_a_name_in_the_file(write: Write) -> None:
    write("recipes/child.yaml", "defaults: [quickstart, _self_]\nmodel: {name: ./mine, dtype: fp32}\n")
    composed = fine("child", "model=smollm2-135m")
    recipe: Any = composed.recipe
    assert recipe.model.name == SMOLLM2
    assert recipe.model.installed_file is not None
    assert recipe.model.dtype == "fp32"
    assert composed.origins["model.name"] == "recipes/model/smollm2-135m.yaml"


def test_the_last_of_a_choice_and_a_name_wins(here: Path) -> None:
    first: Any = fine("lora", "data=x", "model=smollm2-135m", "model=./m").recipe
    last: Any = fine("lora", "data=x", "model=./m", "model=smollm2-135m").recipe
    assert (first.model.name, last.model.name) == ("./m", SMOLLM2)


def test_a_name_that_is_also_a_path_is_refused_with_both_spellings(here: Path) -> None:
    (here / "tickets").mkdir()
    faults = told("lora", "model=./m", "data=tickets")
    assert "tickets is a name in recipes/data/ and also a path here" in faults[0]
    assert "Write data=tickets.yaml for the name, or data=./tickets for the path." in faults[0]
    assert told("lora", "model=./m", "data=tickets.yaml") == []
    path: Any = fine("lora", "model=./m", "data=./tickets").recipe
    assert path.data.name == "./tickets"


def test_an_adapter_is_no_path(here: Path) -> None:
    (here / "dora").mkdir()
    recipe: Any = fine("lora", *NAMED, "adapter=dora").recipe
    assert recipe.adapter.kind == "dora"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("adapter=lorra", "there is no adapter of that name. Did you mean lora? There are: "),
        ("quantization=nf5", "Did you mean nf4? There are: fp4, int8, nf4, none."),
        ("schedule=cosine", "schedule is a section with keys of its own. Write one of schedule.epochs, "),
    ],
)
def test_an_unknown_choice_lists_what_there_is(here: Path, word: str, said: str) -> None:
    faults = told("lora", *NAMED, word)
    assert len(faults) == 1
    assert said in faults[0]


def test_a_section_without_a_group_is_named_too(here: Path) -> None:
    recipe: Any = fine("sft", *NAMED, "optimizer=adafactor").recipe
    assert recipe.optimizer.name == "adafactor"


def test_a_section_can_be_given_whole(here: Path) -> None:
    recipe: Any = fine("lora", *NAMED, "adapter={rank: 4, alpha: 8}").recipe
    assert (recipe.adapter.rank, recipe.adapter.alpha, recipe.adapter.kind) == (4, 8.0, "lora")


@dataclass(kw_only=True)
class Distill:
    """A section with a model in it."""

    teacher: Model


@dataclass(kw_only=True)
class TaughtRecipe(GradientRecipe):
    """A recipe whose teacher stands one section in."""

    distill: Distill
    critic: Model | None = field(default=None)


def test_a_section_further_in_has_a_short_form_and_the_group_of_its_class(here: Path) -> None:
    named = compose("lora", [*NAMED, "teacher=smollm2-135m", "teacher.dtype=fp32"], schema=TaughtRecipe)
    assert "there is no such key" in str(named.faults[0])  # teacher.dtype: only the section itself has a short form
    whole: Any = compose("lora", [*NAMED, "teacher=smollm2-135m"], schema=TaughtRecipe).checked().recipe
    path: Any = compose("lora", [*NAMED, "teacher=./t"], schema=TaughtRecipe).checked().recipe
    assert whole.distill.teacher.name == SMOLLM2
    assert whole.distill.teacher.installed_file is not None
    assert path.distill.teacher.name == "./t"


def test_an_optional_section_is_absent_until_it_is_named(here: Path) -> None:
    without: Any = compose("lora", [*NAMED, "teacher=./t"], schema=TaughtRecipe).checked().recipe
    given: Any = compose("lora", [*NAMED, "teacher=./t", "critic=./c"], schema=TaughtRecipe).checked().recipe
    assert without.critic is None
    assert given.critic.name == "./c"
    back: Any = compose("lora", [*NAMED, "teacher=./t", "critic=./c", "critic=null"], schema=TaughtRecipe).checked()
    assert back.recipe.critic is None
    assert told("lora", "model=null", "data=./d.jsonl") == []  # a required one is named so


def test_a_name_that_is_nearly_one_of_the_group_is_refused_at_once(here: Path) -> None:
    faults = compose("lora", ["model=smollm2-135", "data=tikets"]).faults
    assert [fault.where for fault in faults] == [
        "model=smollm2-135 (from the command line)",
        "data=tikets (from the command line)",
    ]
    assert "Did you mean model=smollm2-135m?" in faults[0].instead and "hub:smollm2-135" in faults[0].instead
    assert fine("lora", "model=hub:smollm2-135", "data=./d").recipe.model.name == "hub:smollm2-135"  # type: ignore[attr-defined]


def test_a_list_names_the_sources_of_a_mixture_in_place_of_the_one_that_the_recipe_names():
    data = compose("quickstart", ["data=[a.jsonl,{name: b.jsonl, weight: 2}]"]).checked().recipe.data
    assert data.name == "" and [source.name for source in data.sources] == ["a.jsonl", "b.jsonl"]
    assert data.sources[1].weight == 2.0
    assert data.rows is None  # said of the tickets, which are not read now


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[{name: a, wieght: 1}]", "element 1 has the unknown key wieght. Did you mean weight?"),
        ("[b,{weight: 1}]", "element 2 needs a name"),
        ("[{name: a, weight: 0}]", "element 1 has a weight that is 0, and must be a number above 0"),
        ("[3]", "element 1 is 3, and must be a mapping with a name"),
    ],
)
def test_what_is_wrong_with_a_source_is_said(text, said):
    faults = compose("lora", ["model=smollm2-135m", f"data.sources={text}"]).faults
    assert any(said in str(fault) for fault in faults), [str(fault) for fault in faults]
