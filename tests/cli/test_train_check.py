"""`train` and `check`: what they hand to the journey, and what they print where."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from alignkit.config.compose import compose
from alignkit.errors import Fault
from tests.cli.test_main import run


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@dataclass
class Result:
    """What the journey returns."""

    path: Path
    calls: list[Any] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {"path": str(self.path), "key": "abc", "metrics": {"loss": 1.5}}


@pytest.fixture
def journey(monkeypatch: pytest.MonkeyPatch) -> Result:
    """A journey that notes how it was called."""
    result = Result(Path("/runs/lora-abc/model"))

    def train(name: str, overrides: list[str], **settings: Any) -> Result:
        result.calls.append((name, overrides, settings))
        return result

    monkeypatch.setattr("alignkit.launch.engine.train", train)
    return result


def test_stdout_is_the_path_alone(journey: Result, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "recipe=lora", "model=./m") == 0
    captured = capsys.readouterr()
    assert captured.out == "/runs/lora-abc/model\n"
    assert captured.err == ""


def test_json_is_one_object(journey: Result, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "--json", "recipe=lora") == 0
    assert json.loads(capsys.readouterr().out) == journey.as_dict()


@pytest.mark.parametrize(
    "words",
    [
        ["recipe=lora", "model=./m", "a=1"],
        ["model=./m", "recipe=lora", "a=1"],
        ["model=./m", "a=1", "recipe=lora"],
        ["model=./m", "recipe=lora", "a=1", "recipe=lora"],
    ],
)
def test_recipe_stands_anywhere(journey: Result, words: list[str]) -> None:
    assert run("train", *words) == 0
    (name, overrides, _) = journey.calls[0]
    assert (name, overrides) == ("lora", ["model=./m", "a=1"])


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ([], {"fresh": False, "verbosity": 0, "recipes": [], "allow_code": False}),
        (["--fresh", "-q"], {"fresh": True, "verbosity": -1, "recipes": [], "allow_code": False}),
        (
            ["-v", "--recipes", "a", "--recipes", "b", "--allow-code"],
            {"fresh": False, "verbosity": 1, "recipes": [Path("a"), Path("b")], "allow_code": True},
        ),
    ],
)
def test_options_are_handed_on(journey: Result, words: list[str], settings: dict[str, Any]) -> None:
    assert run("train", *words, "recipe=lora") == 0
    assert journey.calls[0][2] == settings


@pytest.mark.parametrize("command", ["train", "check"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "recipe=: names the recipe, and is missing. There are: "),
        (["model=x"], "names the recipe, and is missing"),
        (["lora", "model=x"], "Did you mean recipe=lora?"),
        (["./mine.yaml"], "Did you mean recipe=./mine.yaml?"),
        (["recipe=lora", "recipe=sft"], "is given twice: lora, sft"),
        (["recipe="], "names the recipe, and is missing"),
    ],
)
def test_a_missing_recipe(command: str, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, *words) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


def test_check_says_ok_on_stderr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def check(name: str, overrides: list[str], **_: Any) -> Any:
        return compose(name, overrides), []

    monkeypatch.setattr("alignkit.journey.check", check)
    assert run("check", "recipe=lora", "model=./m", "data=./d.jsonl") == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "ok: recipe lora, stage lora, model ./m, data ./d.jsonl\n"
    assert run("check", "-q", "recipe=lora", "model=./m", "data=./d.jsonl") == 0
    assert capsys.readouterr().err == ""


def test_check_tells_every_fault(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def check(name: str, overrides: list[str], **_: Any) -> Any:
        composed = compose(name, overrides)
        return composed, [*composed.faults, Fault(where="d.jsonl line 17", what="is no JSON")]

    monkeypatch.setattr("alignkit.journey.check", check)
    assert run("check", "recipe=lora", "model=./m", "data=./d.jsonl", "sed=1", "batch.micro=3") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "3 faults:",
        "- sed (from the command line): there is no such key. Did you mean seed?",
        "- batch.micro (from the command line): 3 does not divide batch.size=8. "
        "Write a divisor of 8, or batch.micro=auto.",
        "- d.jsonl line 17: is no JSON",
    ]


def test_check_looks_at_every_point_of_a_sweep(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.stages.dpo.preferences import write_pairs
    from tests.tiny import save_tiny

    save_tiny(here / "model")
    words = ["check", "model=./model", f"data={write_pairs(here / 'pairs.jsonl')}", "--sweep"]
    capsys.readouterr()
    assert run(*words, "recipe=dpo", "dpo.loss=sigmoid,kto", "dpo.beta=0.1,0.2") == 0
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines()[0] == "ok: 4 points"
    assert "  dpo.loss=kto dpo.beta=0.2" in said.err.splitlines()
    assert run(*words, "recipe=dpo,simpo", "dpo.gamma=1") == 2
    assert "dpo.gamma (from the command line): is set, and sigmoid does not read it" in capsys.readouterr().err
    assert run(*words, "recipe=dpo", "dpo.beta=0.1,0.2", "evaluation.rows=0") == 2
    assert "nothing says which run is the best" in capsys.readouterr().err
    assert run(*words, "recipe=dpo", "dpo.beta=0.1,0.2", "evaluation.rows=0", "--by", "loss_last") == 0
    assert run("check", "recipe=dpo", "model=./model", "data=./pairs.jsonl", "--by", "loss") == 2
    assert "--by: says something of a sweep. Add --sweep." in capsys.readouterr().err


def test_a_fault_is_told_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.stages.dpo.preferences import write_pairs
    from tests.tiny import save_tiny

    save_tiny(here / "model")
    words = ["model=./model", f"data={write_pairs(here / 'pairs.jsonl')}", "data.overlength=split"]
    assert run("check", "recipe=dpo", *words) == 2
    assert capsys.readouterr().err.count("data.overlength (") == 1
    assert run("check", "recipe=lora", *words) == 2
    assert "split cuts raw text, and the rows are preference pairs" in capsys.readouterr().err
