"""`alignkit recipes`: the answers are on stdout, and every one of them can be used."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.cli.test_main import run


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_list(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "recipes").mkdir()
    (here / "recipes" / "mine.yaml").write_text("# What I do.\ndefaults: [lora, _self_]\n")
    assert run("recipes") == 0
    captured = capsys.readouterr()
    lines = {line.split()[0]: line for line in captured.out.splitlines()}
    assert lines["mine"].split("  ")[-1].strip() == "./recipes/mine.yaml"
    assert "lora" in lines["mine"].split()[1]
    assert "What I do" in lines["mine"]
    assert {"sft", "lora", "quickstart"} <= set(lines)
    assert captured.err == ""


@pytest.mark.parametrize(
    "words", [["recipes", "--recipes", "far", "show", "x"], ["recipes", "show", "recipe=x", "--recipes", "far"]]
)
def test_show_is_yaml_with_origins(here: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (here / "far").mkdir()
    (here / "far" / "x.yaml").write_text("defaults: [lora, _self_]\nseed: 5\n")
    assert run(*words, "adapter.rank=4") == 0
    text = capsys.readouterr().out
    shown = yaml.safe_load(text)
    assert (shown["seed"], shown["adapter"]["rank"]) == (5, 4)
    lines = {line.split(":")[0].strip(): line for line in text.splitlines()}
    assert lines["seed"].endswith("# far/x.yaml")
    assert lines["rank"].endswith("# command line")


def test_show_tells_what_is_wrong_after_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("recipes", "show", "lora", "adapter.rank=x", "sed=1") == 2
    captured = capsys.readouterr()
    assert yaml.safe_load(captured.out)["adapter"]["rank"] == 16
    assert captured.err.startswith("2 faults:")


def test_copy_prints_the_file_and_what_to_do_with_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("recipes", "copy", "lora") == 0
    captured = capsys.readouterr()
    assert captured.out == "recipes/lora-mine.yaml\n"
    assert captured.err == "Run it with: alignkit train recipe=lora-mine\n"
    assert run("recipes", "copy", "lora", "deep/er/x.yaml") == 0
    assert "recipe=deep/er/x.yaml" in capsys.readouterr().err
    assert run("recipes", "show", "lora-mine") == 0
    assert run("recipes", "copy", "lora") == 2
