"""The check of a model's files: directories, GGUF headers, adapters that carry positions, and `alignkit check`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignkit.config.rope import RopeOptions
from alignkit.models.locating import Source, from_name
from alignkit.models.rope import RopePlan, plan_rope
from alignkit.models.rope.sources import source_faults, source_values
from tests.models.rope.configs import config_of
from tests.models.test_gguf import write_gguf
from tests.tiny import save_tiny


def said(place: Path, target: int) -> str:
    return "\n".join(map(str, source_faults(from_name(str(place)), RopeOptions(), target)))


def test_a_directory_and_a_gguf_file(tmp_path: Path) -> None:
    save_tiny(tmp_path / "llama")
    assert said(tmp_path / "llama", 4096) == ""
    assert "takes 512 tokens already" in said(tmp_path / "llama", 512)
    save_tiny(tmp_path / "gpt2", "gpt2")
    assert "absolute positions" in said(tmp_path / "gpt2", 4096)
    write_gguf(tmp_path / "tiny.gguf")
    values = source_values(from_name(str(tmp_path / "tiny.gguf")))
    assert values is not None and values["model_type"] == "llama"
    window = values["max_position_embeddings"]
    assert said(tmp_path / "tiny.gguf", 2 * window) == ""
    assert f"takes {window} tokens already" in said(tmp_path / "tiny.gguf", window)
    hub = Source(kind="hub", path=None, hub_name="a/b", revision=None, said="")
    assert source_faults(hub, RopeOptions(), 4096) == []


@pytest.mark.parametrize("method", ["yarn", "dynamic"])
def test_an_adapter_that_carries_positions(tmp_path: Path, method: str) -> None:
    save_tiny(tmp_path / "base")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "base")}))
    plan: RopePlan = plan_rope(config_of(max_position_embeddings=512), RopeOptions(method=method), 2048)  # type: ignore[arg-type]
    note = {"base": {"kind": "directory", "path": str(tmp_path / "base")}, "rope": plan.as_dict()}
    (adapter / "alignkit.json").write_text(json.dumps(note))
    assert f"takes 2048 tokens already, {method} included" in said(adapter, 1024)
    assert said(adapter, 4096) == ""


def test_alignkit_check_says_it(tmp_path: Path) -> None:
    from alignkit.config.sections import Data, Model
    from alignkit.stages.extend_context.check import check
    from alignkit.stages.extend_context.recipe import ContextOptions, Recipe

    save_tiny(tmp_path / "llama")

    def faults(length: int, name: str = "llama") -> list[str]:
        model = Model(name=str(tmp_path / name))
        recipe = Recipe(
            stage="extend-context", model=model, data=Data(name="rows.jsonl"), context=ContextOptions(length=length)
        )
        return [fault.where for fault in check(recipe)]

    assert faults(1024) == []
    assert faults(256) == ["context.length"]
    assert faults(1024, "absent") == []
