"""Whether a model brings a chat template, told from its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignkit.models.chat_template import has_chat_template
from alignkit.models.locating import Source


def source(path: Path | None, **more: object) -> Source:
    kind = "hub" if path is None else "directory"
    return Source(kind=kind, path=path, hub_name=None, revision=None, said="", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"tokenizer_config.json": "{}"}, False),
        ({"tokenizer_config.json": "not json"}, None),
        ({"tokenizer_config.json": json.dumps({"chat_template": "{{ messages }}"})}, True),
        ({"tokenizer_config.json": json.dumps({"chat_template": None})}, False),
        ({"tokenizer_config.json": "{}", "chat_template.jinja": "{{ messages }}"}, True),
        ({"tokenizer_config.json": "{}", "chat_template.json": "{}"}, True),
    ],
)
def test_a_directory(files: dict[str, str], expected: bool | None, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert has_chat_template(source(tmp_path)) is expected


def test_an_adapter_without_a_tokenizer_has_its_bases(tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    base.mkdir()
    adapter.mkdir()
    (base / "tokenizer_config.json").write_text("{}")
    (base / "chat_template.jinja").write_text("{{ messages }}")
    assert has_chat_template(source(adapter, adapter=True, parent=source(base))) is True
    (adapter / "tokenizer_config.json").write_text("{}")
    assert has_chat_template(source(adapter, adapter=True, parent=source(base))) is False


def test_a_hub_name_is_not_known() -> None:
    assert has_chat_template(source(None)) is None


def test_what_the_tiny_models_have(tiny_llama: Path, tmp_path: Path) -> None:
    from tests.bases import save_base

    assert has_chat_template(source(tiny_llama)) is True
    assert has_chat_template(source(save_base(tmp_path / "base"))) is False


@pytest.mark.parametrize("template", [None, "{{ messages }}"])
def test_a_gguf_file_whose_template_stands_behind_a_large_vocabulary(template: str | None, tmp_path: Path) -> None:
    from gguf import GGUFWriter

    file = tmp_path / "model.gguf"
    writer = GGUFWriter(file, "llama")
    writer.add_token_list([f"token{number:060}" for number in range(20_000)])  # 1.5 MB
    if template is not None:
        writer.add_chat_template(template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    found = Source(kind="gguf", path=file, hub_name=None, revision=None, said="")
    assert has_chat_template(found) is (template is not None)
