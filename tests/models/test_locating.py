"""What was written after `model=` becomes one source, or one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from alignkit.config.sections import Model
from alignkit.errors import RequestError
from alignkit.models.locating import Source, locate


def at(name: str | Path, **changes: object) -> Source:
    return locate(Model(name=str(name), **changes))  # type: ignore[arg-type]


@pytest.fixture
def here(tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a model, a finished run and a file."""
    shutil.copytree(tiny_llama, tmp_path / "owner" / "model")
    run = tmp_path / "runs" / "sft-12345678"
    shutil.copytree(tiny_llama, run / "model")
    (run / "recipe.yaml").write_text("stage: sft\n")
    (run / "manifest.json").write_text("{}")
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_adapter(path: Path, base: str | None) -> Path:
    path.mkdir(parents=True)
    config = {"peft_type": "LORA"} | ({"base_model_name_or_path": base} if base is not None else {})
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("name", ["HuggingFaceTB/SmolLM2-135M-Instruct", "gpt2", "hub:owner/model"])
def test_hub_names(here: Path, name: str) -> None:
    source = at(name, revision="v1")
    assert (source.kind, source.hub_name, source.revision) == ("hub", name.removeprefix("hub:"), "v1")
    assert source.path is None


@pytest.mark.parametrize("name", ["./owner/model", "owner/../owner/model", "runs/sft-12345678/model"])
def test_directories(here: Path, name: str) -> None:
    source = at(name)
    assert source.kind == "directory" and source.path is not None and source.path.is_absolute()
    assert (source.path / "config.json").exists()


@pytest.mark.parametrize("name", ["./runs/sft-12345678", "./runs/sft-12345678/model", "./runs/sft-12345678/"])
def test_a_run_and_its_model_are_the_same(here: Path, name: str) -> None:
    source = at(name)
    assert source.path == here / "runs" / "sft-12345678" / "model"
    assert source.run == here / "runs" / "sft-12345678"
    assert "sft-12345678" in source.said


def test_a_gguf_file_alone_or_in_its_directory(here: Path) -> None:
    assert at("tiny.gguf").kind == "gguf"
    (here / "only").mkdir()
    shutil.copy(here / "tiny.gguf", here / "only")
    assert at("./only").path == here / "only" / "tiny.gguf"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("owner/model", r"Write \./owner/model for the path, or hub:owner/model for the hub"),
        ("./onwer/model", "Near it in .*: owner"),
        ("./missing.gguf", "does not exist"),
        ("./runs", "neither config.json"),
        ("./owner/model/model.safetensors", "Give its directory"),
        ("hub:no spaces", "no hub name"),
        ("", "no model is given"),
    ],
)
def test_refusals(here: Path, name: str, found: str) -> None:
    with pytest.raises(RequestError, match=found):
        at(name)


def test_a_run_without_a_manifest_is_no_model(here: Path) -> None:
    (here / "runs" / "sft-12345678" / "manifest.json").unlink()
    with pytest.raises(RequestError, match="not complete"):
        at("./runs/sft-12345678")


def test_an_installed_file_wins_over_the_name(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = here / "carrier"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    shutil.copy(here / "tiny.gguf", package)
    monkeypatch.syspath_prepend(str(here))
    source = at("owner/name", installed_file="carrier/tiny.gguf")
    assert (source.kind, source.path, source.hub_name) == ("gguf", package / "tiny.gguf", "owner/name")
    assert at("owner/name", installed_file="not_there/tiny.gguf").kind == "hub"


def test_adapters_and_their_bases(here: Path) -> None:
    base = here / "owner" / "model"
    absolute = at(write_adapter(here / "a", str(base)))
    assert absolute.adapter and absolute.parent is not None and absolute.parent.path == base
    relative = at(write_adapter(here / "b", "../owner/model"))
    assert relative.parent is not None and relative.parent.path == base
    hub = at(write_adapter(here / "c", "some/base"))
    assert hub.parent is not None and hub.parent.hub_name == "some/base"
    chain = at(write_adapter(here / "d", str(here / "a")))
    assert chain.parent is not None and chain.parent.adapter and chain.parent.parent is not None
    assert chain.parent.parent.path == base


def test_adapters_without_a_base(here: Path) -> None:
    with pytest.raises(RequestError, match="does not say which base"):
        at(write_adapter(here / "a", None))
    with pytest.raises(RequestError, match="/gone/base, which does not exist"):
        at(write_adapter(here / "b", "/gone/base"))
    write_adapter(here / "c", str(here / "d"))
    write_adapter(here / "d", str(here / "c"))
    with pytest.raises(RequestError, match="names itself"):
        at(here / "c")
