"""Model cards: metadata that parses, and nothing in it that only this machine knows."""

from __future__ import annotations

from pathlib import Path

import yaml

from alignkit.models.cards import Card, write_card


def test_metadata_is_what_the_hub_reads(tmp_path: Path) -> None:
    card = Card(
        title="A model",
        summary="Tuned: with a colon, and ümlauts.",
        adapter=True,
        base_model="owner/base",
        license="apache-2.0",
        tags=["lora", "alignkit"],
        sections=[("Results", "| a | b |\n|---|---|\n| 1 | 2 |")],
    )
    text = write_card(tmp_path, card).read_text()
    _, header, body = text.split("---\n", 2)
    metadata = yaml.safe_load(header)
    assert metadata["base_model"] == "owner/base" and metadata["library_name"] == "peft"
    assert metadata["tags"] == ["alignkit", "lora"] and metadata["license"] == "apache-2.0"
    assert body.startswith("\n# A model\n\nTuned: with a colon") and "## Results\n\n| a | b |" in body


def test_a_model_without_a_hub_base_names_none(tmp_path: Path) -> None:
    header = write_card(tmp_path, Card(title="x", summary="y")).read_text().split("---\n")[1]
    metadata = yaml.safe_load(header)
    assert "base_model" not in metadata and metadata["library_name"] == "transformers"


def test_the_license_a_model_states_is_known(tiny_llama: Path, tmp_path: Path) -> None:
    import shutil

    from alignkit.config.sections import Model
    from alignkit.models.cards import license_of
    from alignkit.models.locating import locate

    shutil.copytree(tiny_llama, tmp_path / "model")
    source = locate(Model(name=str(tmp_path / "model")))
    assert license_of(source) is None
    (tmp_path / "model" / "README.md").write_text("---\nlicense: mit\n---\n# x\n")
    assert license_of(source) == "mit"
    (tmp_path / "model" / "README.md").write_text("---\nlicense: [\n---\n# x\n")
    assert license_of(source) is None
