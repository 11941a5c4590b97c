"""`key=a,b,c` into points: where a comma parts two values, and where it is a part of one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.config.compose import compose
from alignkit.config.grid import expand, values
from alignkit.config.key_values import decisive, requested

BASE = ["model=./m", "data=./d.jsonl"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1", ["1"]),
        ("", [""]),
        ("1,2,3", ["1", "2", "3"]),
        ("1, 2 ,3", ["1", "2", "3"]),
        ("[1,2]", ["[1,2]"]),
        ("[1,2],[3,4]", ["[1,2]", "[3,4]"]),
        ("{a: [1,2], b: 3},{a: 4}", ["{a: [1,2], b: 3}", "{a: 4}"]),
        ('"Hello, world"', ['"Hello, world"']),
        ('"a, b",c', ['"a, b"', "c"]),
        ("'a, b','c, d'", ["'a, b'", "'c, d'"]),
        (r'"a\", b",c', [r'"a\", b"', "c"]),
        ('["a], b",c],d', ['["a], b",c]', "d"]),
        ("don't,won't", ["don't", "won't"]),
        ("it's,'a, b'", ["it's", "'a, b'"]),
        (r".*\.(q_proj|v_proj),x{1,2}", [r".*\.(q_proj|v_proj)", "x{1,2}"]),
        ("a[1,b", ["a[1,b"]),
        ("a],b", ["a]", "b"]),
        ("a,", ["a", ""]),
        (" a ", [" a "]),
    ],
)
def test_commas_outside_of_quotes_and_brackets_part_values(text: str, parts: list[str]) -> None:
    assert values(text) == parts


PLAIN = st.text(st.characters(exclude_characters="\"'[]{}(), \t\n", categories=["L", "N", "P", "S"]), min_size=1)


@given(st.lists(st.one_of(PLAIN, PLAIN.map(lambda s: f"[{s},{s}]"), PLAIN.map(lambda s: f"({s},1)")), min_size=1))
def test_what_is_joined_comes_apart_again(parts: list[str]) -> None:
    assert values(",".join(parts)) == parts


def test_every_combination_the_last_key_fastest() -> None:
    points, faults = expand("lora", ["seed=1,2", "model=./m", "adapter.rank=4,8"])
    assert not faults
    assert [str(point) for point in points] == [
        "seed=1 adapter.rank=4",
        "seed=1 adapter.rank=8",
        "seed=2 adapter.rank=4",
        "seed=2 adapter.rank=8",
    ]
    assert points[1].overrides == ("seed=1", "model=./m", "adapter.rank=8")
    assert points[1].swept == {"seed": "1", "adapter.rank": "8"}


def test_recipes_are_swept_too() -> None:
    points, _ = expand("lora,sft", ["seed=7"])
    assert [(point.recipe, point.overrides) for point in points] == [("lora", ("seed=7",)), ("sft", ("seed=7",))]
    assert str(points[1]) == "recipe=sft"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seed=1"], "--sweep: no key has several values. Write them with commas between"),
        ([], "--sweep: no key has several values"),
        (["adapter.targets=[q_proj,v_proj]"], "no key has several values"),
        (["seed=1,2", "seed=3"], "seed (from the command line): is given twice. Write all of its values in one word."),
        (["seed=1,"], "one of its values is empty"),
        (["seed=,1"], "one of its values is empty"),
        (["seed=1,2,1"], "1 is there twice"),
    ],
)
def test_what_is_no_grid(words: list[str], said: str) -> None:
    points, faults = expand("lora", words)
    assert not points
    assert [said in str(fault) for fault in faults] == [True]


@pytest.mark.parametrize(
    ("word", "texts"),
    [
        ("optimizer.learning_rate=1e-3,2e-3", [1e-3, 2e-3]),
        ("optimizer.name=adamw,sgd", ["adamw", "sgd"]),
        ("adapter.targets=[q_proj,v_proj],all-linear", [["q_proj", "v_proj"], "all-linear"]),
        ('data.system="Be kind, be short",null', ["Be kind, be short", None]),
        ("data.packing=true,false,best-fit", [True, False, "best-fit"]),
        ("trl.neftune=1,x", [1, "x"]),
    ],
)
def test_points_are_read_by_the_type_of_their_key(word: str, texts: list[object]) -> None:
    points, _ = expand("lora", [*BASE, word])
    found = []
    for point in points:
        value: object = compose(point.recipe, point.overrides).values
        for step in word.partition("=")[0].split("."):
            assert isinstance(value, dict)
            value = value[step]
        found.append(value)
    assert found == texts


def test_choices_of_groups_are_points() -> None:
    points, _ = expand("lora", [*BASE, "adapter=lora,dora"])
    kinds = [compose(point.recipe, point.overrides).checked().values["adapter"]["kind"] for point in points]
    assert kinds == ["lora", "dora"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("optimizer.learning_rate=1e-3,2e-3", "`1e-3,2e-3` holds commas; for one run of each add --sweep"),
        ("optimizer.name=adamw,sgd", "`adamw,sgd` holds commas; for one run of each add --sweep"),
        ("adapter=lora,dora", "is several. Write one, or add --sweep for one run of each."),
        ("adapter.targets=q_proj,v_proj", "'adapter.targets=[q_proj,v_proj]', or one run each with --sweep"),
    ],
)
def test_without_a_sweep_commas_are_refused(word: str, said: str) -> None:
    faults = compose("lora", [*BASE, word]).faults
    assert any(said in str(fault) for fault in faults), faults


def test_requests_for_one_run_agree_in_what_is_requested() -> None:
    def of(*words: str) -> object:
        return requested(compose("lora", [*BASE, *words]).checked().recipe)

    assert of() == of("evaluation.rows=5") == of("run.root=elsewhere") == of("batch.micro=1") == of("seed=42")
    assert of() != of("seed=43")
    # The run's key looks at what is there, and a name says only where: but two names are two requests.
    recipe = compose("lora", [*BASE, "model=./other"]).checked().recipe
    assert requested(recipe) != of()
    assert decisive(recipe) == decisive(compose("lora", BASE).checked().recipe)
