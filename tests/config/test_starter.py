"""`recipes show` and `recipes copy`: text that is a recipe again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from alignkit.config.compose import compose
from alignkit.config.listing import list_recipes
from alignkit.config.showing import scalar, show
from alignkit.config.starter import write_starter
from alignkit.errors import RequestError
from tests.config.conftest import NAMED, fine

INPUTS = (
    "merge.models=[./x]",
    "extract.base=./x",
    "rank.reward=[json]",
    "rlhf.rewards=[json]",
    "distill.teacher.name=./m",
    "teacher.name=./x",
    "context.length=16384",
)
"""What recipes must be given beside a model and data."""


def test_what_is_shown_is_the_recipe_again(here: Path) -> None:
    composed = fine("quickstart", "model=./a b#c.gguf", "adapter.targets=[q,'1']", "data.split=null", "trl.tf32=true")
    text = show(composed)
    (here / "again.yaml").write_text(text)
    assert compose("./again.yaml").checked().values == composed.values
    assert re.search(r"^  learning_rate: \S+ +# recipes/quickstart.yaml$", text, re.MULTILINE)
    assert re.search(r"^  name: '?./a b#c.gguf'? +# command line$", text, re.MULTILINE)
    assert re.search(r"^seed: 42 +# built-in default$", text, re.MULTILINE)


@pytest.mark.parametrize(
    "value",
    [
        1e-8,
        1e20,
        0.1,
        1.0,
        3,
        True,
        None,
        "",
        "true",
        "1e5",
        "a: b",
        "ü",
        [],
        {},
        ["a", 1],
        "l\nm",
        "null",
        "x${y}",
        ["1e5"],
    ],
)
def test_a_scalar_reads_back_as_itself(value: object, tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    text = scalar(value)
    assert "\n" not in text
    assert yaml.safe_load(f"x: {text}")["x"] == (value.replace("${", "\\${") if isinstance(value, str) else value)
    assert OmegaConf.to_container(OmegaConf.create(f"x: {text}"), resolve=True)["x"] == value


def test_a_copy_leaves_a_gap_for_what_a_person_has_to_say(here: Path) -> None:
    lines = write_starter("extend-context", None).read_text().splitlines()
    assert any(re.match(r"#  length: … +# Window to reach", line) for line in lines)
    assert not any(re.match(r"#  length: 0", line) for line in lines)


@pytest.mark.parametrize("name", [entry.name for entry in list_recipes() if entry.stage])
def test_a_copy_comes_to_the_same_recipe(here: Path, name: str) -> None:
    written = write_starter(name, None)
    assert written == Path("recipes") / f"{name}-mine.yaml"
    mine = compose(f"{name}-mine")
    assert mine.values == compose(name).values
    assert written.read_text().count("\n") < 90


@pytest.mark.parametrize("name", [entry.name for entry in list_recipes() if entry.stage])
def test_every_line_of_a_copy_can_be_taken_in(here: Path, name: str) -> None:
    """With every comment taken away the file still composes, and to the same values but for the names in it."""
    written = write_starter(name, Path("all.yaml"))
    head, _, body = written.read_text().partition("# Take the #")
    lines = [
        line.removeprefix("#").replace("…", "./x", 1) if line.startswith("#") else line
        for line in body.splitlines()[1:]
    ]
    written.write_text("\n".join([head, *lines]))
    words = [word for word in NAMED if (compose(name).values.get(word.split("=")[0]) or {}).get("name") == ""]
    words += [word for word in INPUTS if compose(name).values.get(word.split(".")[0])]
    assert compose("./all.yaml", words).checked().values == compose(name, words).values


@pytest.mark.parametrize(
    ("name", "file", "said"),
    [
        ("lora", "lora.yaml", "a file named lora would extend itself. Write lora-mine.yaml"),
        ("lora", "there.yaml", "is there already, and is not overwritten"),
        ("lora", "x.txt", "a recipe's file ends in .yaml"),
        ("nothing", "x.yaml", "there is no such recipe"),
        ("./there.yaml", "x.yaml", "only a recipe with a name can be extended"),
    ],
)
def test_what_is_not_written(here: Path, name: str, file: str, said: str) -> None:
    (here / "there.yaml").write_text("mine")
    with pytest.raises(RequestError, match=re.escape(said)):
        write_starter(name, Path(file))
    assert (here / "there.yaml").read_text() == "mine"
    assert not (here / "x.yaml").exists()
