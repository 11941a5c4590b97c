"""The stage trained for real on a tiny model: what is saved says what was trained, and it is exact."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import alignkit
from alignkit.config.sections import Model
from alignkit.errors import RequestError
from alignkit.models.loading import load
from tests.stages.extend_context.making import WINDOW, documents, tiny, train
from tests.stages.runs import weights
from tests.tiny import save_tiny, write_chats

IDS = torch.arange(3, 203).unsqueeze(0)  # (1, 200): beyond the old window


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny(tmp_path / "model", initializer_range=0.3)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return documents(tmp_path / "documents.jsonl")


def config_of(result: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(result["path"]) / "config.json").read_text())
    return found


def plain_logits(path: str) -> torch.Tensor:
    """Of plain transformers, in a process of its own."""
    code = (
        "import sys, torch; from transformers import AutoModelForCausalLM as A\n"
        "model = A.from_pretrained(sys.argv[1], dtype='float32').eval()\n"
        "ids = torch.arange(3, 203).unsqueeze(0)\n"
        "with torch.no_grad(): torch.save(model(ids).logits, sys.argv[2])"
    )
    file = Path(path).parent / "logits.pt"
    subprocess.run([sys.executable, "-c", code, path, str(file)], check=True, capture_output=True)
    found: torch.Tensor = torch.load(file)
    return found


def test_trains_shows_it_and_saves_what_plain_transformers_reads(model: Path, data: Path, tmp_path: Path) -> None:
    result = train(
        model, data, tmp_path / "runs", schedule__max_steps=30, evaluation__rows=4, evaluation__suite__stride=16,
        evaluation__suite__lengths="[32,64,128,200]", checkpoint__every=50,
    )  # fmt: skip
    config = config_of(result)
    assert config["max_position_embeddings"] == 256 and config["use_cache"]
    assert config["rope_parameters"] | {"rope_theta": 1.0} == {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": WINDOW, "rope_theta": 1.0,
    }  # fmt: skip
    before, after = (
        {one["length"]: one["loss"] for one in result["metrics"][when]["perplexity"]} for when in ("before", "after")
    )
    assert before.keys() == after.keys() == {32, 64, 128, 200}
    assert all(after[length] < before[length] - 0.5 for length in after)
    assert result["metrics"]["rope"]["target"] == 256
    run = Path(result["run"])
    assert (run / "perplexity.png").exists()
    loaded = load(Model(name=result["path"], dtype="fp32"))
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(IDS).logits, plain_logits(result["path"]), rtol=1e-4, atol=1e-4)


def test_an_adapter_carries_the_window_and_equals_its_merged_model(model: Path, data: Path, tmp_path: Path) -> None:
    changes = {"adapter__kind": "lora", "context__also_train": "[embeddings,norms]"}
    adapter = train(model, data, tmp_path / "runs", **changes)
    config = json.loads((Path(adapter["path"]) / "adapter_config.json").read_text())
    assert {"embed_tokens", "norm", "input_layernorm"} <= set(config["modules_to_save"])
    loaded = load(Model(name=adapter["path"], dtype="fp32"))
    assert loaded.model.config.max_position_embeddings == 256
    with torch.no_grad():
        told = loaded.model(IDS).logits
    card = (Path(adapter["path"]) / "README.md").read_text()
    told_in_card: dict[str, Any] = {"BASE": str(model), "ADAPTER": adapter["path"]}
    exec(card.partition("```python\n")[2].partition("```")[0], told_in_card)  # what it says for PEFT alone
    with torch.no_grad():
        torch.testing.assert_close(told_in_card["model"].eval()(IDS).logits, told, rtol=1e-4, atol=1e-4)
    merged = train(model, data, tmp_path / "runs", save="merged", **changes)
    assert "A longer window" not in (Path(merged["path"]) / "README.md").read_text()
    assert merged["run"] == adapter["run"]  # nothing is trained again
    torch.testing.assert_close(plain_logits(merged["path"]), told, rtol=1e-4, atol=1e-4)
    further = train(Path(merged["path"]), documents(tmp_path / "longer.jsonl", longest=900), tmp_path / "runs",
                    context__length=512)  # fmt: skip
    assert config_of(further)["rope_parameters"]["factor"] == 8.0


@pytest.mark.parametrize("method", ["linear", "ntk", "dynamic", "llama3"])
def test_without_training_only_the_configuration_changes(method: str, model: Path, tmp_path: Path) -> None:
    result = train(
        model, None, tmp_path / "runs", context__train="false", context__method=method, schedule__max_steps="null"
    )
    assert result["metrics"]["training"]["steps"] == 0
    before, after = (load(Model(name=str(path), dtype="fp32")).model for path in (model, result["path"]))
    for name, parameter in before.named_parameters():
        assert torch.equal(parameter, after.get_parameter(name))
    assert config_of(result)["rope_parameters"]["rope_type"] == {"ntk": "default"}.get(method, method)


def test_without_training_the_recipes_own_adapter_is_no_matter(model: Path, tmp_path: Path) -> None:
    words = [f"model={model}", "context.length=256", "context.train=false", f"run.root={tmp_path}", "model.dtype=fp32"]
    result = alignkit.train("extend-context", [*words, "evaluation.rows=0"])
    assert config_of(result)["rope_parameters"]["rope_type"] == "yarn"
    assert not (Path(result["path"]) / "adapter_config.json").exists()


CHANGES: dict[str, dict[str, Any]] = {
    "one window": {},
    "two windows": {
        "context__method": "abf",
        "context__stages": "[{length: 128, theta: 20000, steps: 2},{length: 256, theta: 90000, steps: 3}]",
        "schedule__max_steps": "null",
    },
    "skipped positions": {"context__positions": "pose"},
    "an adapter": {"adapter__kind": "lora", "adapter__dropout": 0.1, "context__also_train": "[norms]"},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_that_was_cut_off_goes_on_exactly(name: str, model: Path, data: Path, tmp_path: Path) -> None:
    whole = train(model, data, tmp_path / "whole", **CHANGES[name])
    cut = train(model, data, tmp_path / "cut", **CHANGES[name])
    run = Path(cut["run"])
    newest = sorted(run.glob("checkpoints/checkpoint-*"), key=lambda p: int(p.name.partition("-")[2]))[-1]
    shutil.rmtree(newest)  # as if it had been killed before its last step, and before anything was published
    shutil.rmtree(run / "model")
    (run / "manifest.json").unlink()
    for mark in ("trained", "saved", "evaluated_after"):
        (run / "state" / f"{mark}.json").unlink(missing_ok=True)
    resumed = train(model, data, tmp_path / "cut", **CHANGES[name])
    assert resumed["metrics"]["training"]["resumed_from_step"]
    assert weights(resumed) == weights(whole)


def test_each_window_is_trained_at_its_own_frequencies(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule: Any = importlib.import_module("alignkit.stages.extend_context.schedule")
    seen: list[tuple[int, float]] = []
    plain = schedule.change_rope

    def noted(inner: Any, plan: Any) -> None:
        plain(inner, plan)
        seen.append((plan.target, round(inner.model.rotary_emb.config.rope_parameters["rope_theta"])))

    monkeypatch.setattr(schedule, "change_rope", noted)
    result = train(model, data, tmp_path / "runs", **CHANGES["two windows"])
    assert seen == [(128, 20000), (256, 90000)]
    assert result["metrics"]["training"]["steps"] == 5
    assert config_of(result)["rope_parameters"]["rope_theta"] == 90000
    other = train(model, data, tmp_path / "runs", context__method="abf", context__theta=90000, schedule__max_steps=5)
    assert weights(other) != weights(result)


def test_joined_documents_see_each_other_and_isolated_ones_do_not(model: Path, data: Path, tmp_path: Path) -> None:
    short = documents(tmp_path / "short.jsonl", longest=100)
    joined = train(model, short, tmp_path / "runs", context__documents="joined")
    isolated = train(model, short, tmp_path / "runs")
    assert weights(joined) != weights(isolated)


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"context__length": 64}, "takes 64 tokens already"),
    ({"context__length": 32}, "takes 64 tokens already"),
    ({"context__factor": 2}, "context.factor"),
    ({"context__theta": 1e6}, "only abf takes a base frequency"),
    ({"context__yarn__beta_fast": 0.5}, "is not above beta_slow"),
    ({"context__method": "longrope", "context__longrope__long_factor": "[1,2,3]"}, "pairs of dimensions"),
    ({"context__stages": "[{length: 128},{length: 100}]", "schedule__max_steps": "null"}, "windows of a schedule grow"),
    ({"context__stages": "[{length: 128}]", "schedule__max_steps": "null"}, "the last window is 128"),
    ({"context__tokens": 128}, "never reach context.length=256"),
    ({"context__also_train": "[norms]"}, "without an adapter everything is trained"),
    ({"memory__offload": "true", "memory__gradient_checkpointing": "false"}, "memory.offload"),
    ({"evaluation__suite__lengths": "[4]"}, "evaluation.suite.lengths"),
]


@pytest.mark.parametrize(("changes", "said"), FAULTS, ids=lambda value: str(value)[:40])
def test_what_cannot_work_is_said_before_anything_is_loaded(
    changes: dict[str, Any], said: str, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignkit.training.stage.load", lambda *args, **kwargs: pytest.fail("weights were read"))
    with pytest.raises(RequestError, match=said):
        train(model, data, tmp_path / "runs", **changes)


def test_a_model_without_rotary_positions_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="position"):
        train(save_tiny(tmp_path / "gpt2", "gpt2", n_positions=64), data, tmp_path / "runs")


def test_documents_that_are_all_short_teach_nothing(model: Path, tmp_path: Path) -> None:
    short = documents(tmp_path / "short.jsonl", shortest=20, longest=60)
    with pytest.raises(RequestError, match="no document is longer than the window that the model has, 64 tokens"):
        train(model, short, tmp_path / "runs")
    assert train(model, short, tmp_path / "runs", context__positions="pose")["metrics"]["training"]["steps"] == 4


def test_rows_that_memory_cannot_hold_come_with_what_would_fit(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignkit.stages.extend_context.run.free_bytes", lambda device: 101 * 2**20)
    monkeypatch.setattr("alignkit.stages.extend_context.run.prepare", lambda *args, **kwargs: pytest.fail("rows read"))
    with pytest.raises(RequestError, match=r"takes about .* GB, of which .* KB a token"):
        train(model, data, tmp_path / "runs", memory__gradient_checkpointing="false", context__length=16384)


def test_long_documents_and_short_conversations_mix(model: Path, data: Path, tmp_path: Path) -> None:
    chats = write_chats(tmp_path / "chats.jsonl", 40)
    result = alignkit.train(
        "extend-context",
        [
            f"model={model}", f"data.sources=[{{name: {data}, weight: 0.5}},{{name: {chats}, weight: 0.5}}]",
            "context.length=256", "adapter=none", "context.also_train=[]", "schedule.max_steps=2", "batch.size=2",
            "evaluation.rows=0", f"run.root={tmp_path / 'runs'}", "model.dtype=fp32",
        ],
    )  # fmt: skip
    assert {one["format"][:4] for one in result["metrics"]["data"]["sources"]} == {"raw ", "chat"}


def test_attention_without_document_boundaries_is_refused_with_a_way_out(
    model: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match="knows no document boundaries") as refused:
        train(model, data, tmp_path / "runs", model__attention="eager", schedule__max_steps=1)
    assert "context.train=false" in str(refused.value) and "data.packing" not in str(refused.value)
