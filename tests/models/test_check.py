"""Faults of models that are found without torch, and the identity and length that are read there."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alignkit.config.sections import Adapter, Model, Quantization
from alignkit.errors import RequestError
from alignkit.models.check import check
from alignkit.models.context import context_length
from alignkit.models.gguf_header import NotGGUFError, read_values
from alignkit.models.identity import hub_commit, identity
from alignkit.models.locating import locate


@pytest.fixture
def model(tmp_path: Path, tiny_llama: Path) -> Path:
    shutil.copytree(tiny_llama, tmp_path / "model")
    return tmp_path / "model"


def faults(name: Path | str, *, quantization: Any = None, adapter: Any = None, **changes: Any) -> str:
    return "\n".join(map(str, check(Model(name=str(name), **changes), quantization, adapter)))


def set_config(model: Path, **changes: Any) -> None:
    file = model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_sound_model_has_none(model: Path) -> None:
    assert faults(model) == ""


def test_the_room_is_read_without_torch() -> None:
    code = (
        "import sys, alignkit.models.sources, alignkit.models.check, alignkit.models.identity;"
        "print([m for m in ('torch', 'transformers', 'peft', 'numpy', 'gguf') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_pickled_weights_are_refused_unless_allowed(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert "pytorch_model.bin, which can run code" in faults(model)
    assert faults(model, allow_pickle=True) == ""
    (model / "pytorch_model.bin").unlink()
    assert "holds no weights" in faults(model)


@pytest.mark.parametrize("file", ["../other/model.safetensors", "/etc/passwd", "sub/../../x", "..\\x", ".."])
def test_an_index_that_points_outside_is_refused(model: Path, file: str) -> None:
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": file}}))
    assert "outside its own directory" in faults(model)


def test_an_index_with_a_missing_part(model: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-2.safetensors is missing" in faults(model)


def test_unreadable_configuration(model: Path) -> None:
    (model / "config.json").write_text("{")
    assert "cannot be read as JSON" in faults(model)


def test_code_of_its_own_is_refused_only_where_it_would_run(model: Path) -> None:
    set_config(model, auto_map={"AutoModelForCausalLM": "modeling.Own"})
    assert faults(model) == ""  # transformers knows the type itself and does not take the code
    set_config(model, model_type="brand_new")
    assert "model.trust_remote_code=true" in faults(model)
    assert faults(model, trust_remote_code=True) == ""
    config = json.loads((model / "config.json").read_text())
    del config["auto_map"]
    (model / "config.json").write_text(json.dumps(config))
    assert "does not know models of type brand_new" in faults(model)


@pytest.mark.parametrize(
    ("adapter", "quantization", "found"),
    [
        ({"init": "pissa"}, "nf4", "adapter.init"),
        ({"init": "olora"}, "int8", "adapter.init"),
        ({"init": "loftq"}, "none", "quantization=nf4"),
        ({"init": "loftq"}, "int8", "quantization=nf4"),
        ({"kind": "dora", "init": "pissa"}, "none", "do not combine"),
        ({"init": "orthogonal", "rank": 7}, "none", "adapter.rank=8"),
        ({"targets": "(q"}, "none", "no regular expression"),
        ({"targets": []}, "none", "adapter.targets"),
        ({"rank_pattern": {"q_proj": 0}}, "none", "not above 0"),
    ],
)
def test_combinations(adapter: dict[str, Any], quantization: Any, found: str) -> None:
    section = Adapter(**{"kind": "lora", **adapter})
    assert found in "\n".join(map(str, check(Model(name=""), Quantization(kind=quantization), section)))


@pytest.mark.parametrize("init", ["default", "gaussian", "orthogonal", "pissa", "olora", "eva"])
def test_every_other_combination_passes(init: Any) -> None:
    assert check(Model(name=""), Quantization(), Adapter(kind="lora", init=init)) == []
    assert check(Model(name=""), Quantization(), Adapter(kind="none", init=init)) == []


def test_loftq_on_nf4_passes() -> None:
    assert check(Model(name=""), Quantization(kind="nf4"), Adapter(kind="lora", init="loftq")) == []


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = check(Model(name="", attention="flash_attention_2"), Quantization(kind="nf4"))
    assert {fault.where for fault in found} == {"quantization.kind", "model.attention"}


def test_macos_has_no_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert "macOS" in str(check(Model(name=""), Quantization(kind="nf4"))[0])


def test_rows_longer_than_the_model_takes(model: Path) -> None:
    assert context_length(locate(Model(name=str(model)))) == 512
    assert check(Model(name=str(model)), max_length=512) == []
    found = check(Model(name=str(model)), max_length=513)
    assert [fault.where for fault in found] == ["data.max_length"]


def test_faults_stand_under_the_key_of_their_section(model: Path) -> None:
    (model / "config.json").write_text("{")
    assert check(Model(name=str(model)), where="teacher.model")[0].where == "teacher.model.name"
    assert check(Model(name="./missing"), where="teacher.model")[0].where == "teacher.model.name"


def gguf(path: Path, pairs: list[tuple[str, Any]]) -> Path:
    """A GGUF header and nothing after it."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    body = b""
    for key, value in pairs:
        body += text(key)
        if isinstance(value, str):
            body += struct.pack("<I", 8) + text(value)
        elif isinstance(value, list) and value and isinstance(value[0], str):
            body += struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
        elif isinstance(value, list):
            body += struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)
        else:
            body += struct.pack("<II", 4, value)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + body)
    return path


def test_gguf_headers(tmp_path: Path) -> None:
    pairs = [
        ("general.architecture", "llama"),
        ("tokenizer.ggml.tokens", ["a", "bc", "ü"]),
        ("tokenizer.ggml.token_type", [1, 2, 3]),
        ("llama.context_length", 8192),
    ]
    path = gguf(tmp_path / "tiny.gguf", pairs)
    assert faults(path) == ""
    assert context_length(locate(Model(name=str(path)))) == 8192
    assert read_values(path, ("llama.context_length",), limit=40) == {}
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(path.read_bytes()[:30])
    assert "cut short" in faults(cut)
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"PK\x03\x04 not a model")
    assert "does not begin like a GGUF" in faults(wrong)
    with pytest.raises(NotGGUFError):
        read_values(wrong, ("x",))
    assert "one part of a GGUF" in faults(gguf(tmp_path / "m-00001-of-00002.gguf", pairs))


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_identity_is_what_decides_the_outputs(model: Path, tmp_path: Path) -> None:
    first = identity(locate(Model(name=str(model))), sha)
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"} <= set(first)
    (model / "README.md").write_text("a card")
    model.rename(tmp_path / "moved")
    moved = tmp_path / "moved"
    assert identity(locate(Model(name=str(moved))), sha) == first
    (moved / "chat_template.jinja").write_text("{{ messages }}")
    changed = identity(locate(Model(name=str(moved))), sha)
    assert {key for key in changed if changed[key] != first[key]} == {"chat_template.jinja"}


def test_identity_of_an_adapter_holds_its_base_but_not_its_place(model: Path, tmp_path: Path) -> None:
    def adapter(folder: str, rank: int) -> dict[str, str]:
        path = tmp_path / folder
        path.mkdir()
        config = {"peft_type": "LORA", "r": rank, "base_model_name_or_path": str(model), "where": 1}
        (path / "adapter_config.json").write_text(json.dumps(config))
        (path / "adapter_model.safetensors").write_bytes(b"weights")
        return identity(locate(Model(name=str(path))), sha)

    one = adapter("one", 4)
    assert "base/model.safetensors" in one
    base = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    shutil.copytree(model, tmp_path / "elsewhere")
    base["base_model_name_or_path"] = str(tmp_path / "elsewhere")
    (tmp_path / "one" / "adapter_config.json").write_text(json.dumps(base))
    assert identity(locate(Model(name=str(tmp_path / "one"))), sha) == one
    assert adapter("two", 8) != one


def test_a_hub_name_offline_is_the_commit_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--owner--name"
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert hub_commit("owner/name", None) == commit
    assert identity(locate(Model(name="owner/name")), sha) == {"hub": "owner/name", "commit": commit}
    with pytest.raises(RequestError, match="not in the hub's cache"):
        hub_commit("owner/other", None)
