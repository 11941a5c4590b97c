"""Every kind of adapter through the whole stage: what is saved, loaded fresh, scores what the run measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.stages.runs import train, weights

KINDS: dict[str, dict[str, Any]] = {
    "dora": {"adapter": "dora"},
    "rslora": {"adapter": "rslora"},
    "pissa": {"adapter": "pissa", "adapter__rank": 4},
    "olora": {"adapter": "olora", "adapter__rank": 4},
    "eva": {"adapter": "eva", "adapter__rank": 4},
    "qlora": {"quantization": "nf4"},
    "qlora int8": {"quantization": "int8"},
    "loftq": {"quantization": "nf4", "adapter": "loftq", "adapter__rank": 4},
    "patterns": {
        "adapter__targets": "[q_proj,v_proj]",
        "adapter__rank_pattern": "{q_proj: 4}",
        "adapter__layers": "[1]",
    },
}
SCORED = {"evaluation__rows": 4, "evaluation__samples": 0}


def held_out_loss_of(result: dict[str, Any], chats: Path, quantization: str) -> float:
    """The result loaded as a stranger would, scored on the rows that were held out."""
    from alignkit.config.sections import Data, Model, Quantization
    from alignkit.data.prepare import prepare
    from alignkit.evaluation.scoring import held_out_loss
    from alignkit.models.loading import load

    loaded = load(Model(name=result["path"], dtype="fp32"), Quantization(kind=quantization))  # type: ignore[arg-type]
    rows = prepare(Data(name=str(chats), holdout=4, max_length=64), loaded.tokenizer).held_out
    return float(held_out_loss(loaded.model, rows, pad_id=0)["loss"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_load_scores_what_the_run_measured(kind: str, tiny_llama: Path, chats: Path, tmp_path: Path) -> None:
    changes = {**KINDS[kind], **SCORED, "optimizer__learning_rate": "1e-2", "schedule__max_steps": 10}
    result = train("lora", tiny_llama, chats, tmp_path, **changes)
    metrics = result["metrics"]
    assert metrics["training"]["loss_last"] < metrics["training"]["loss_first"] - 0.01
    assert abs(metrics["after"]["loss"] - metrics["before"]["loss"]) > 0.01
    found = held_out_loss_of(result, chats, KINDS[kind].get("quantization", "none"))
    assert found == pytest.approx(metrics["after"]["loss"], abs=2e-4)


@pytest.mark.parametrize("kind", ["pissa", "dora", "qlora", "loftq", "eva"])
def test_resuming_is_exact(
    kind: str, tiny_llama: Path, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alignkit.training.trainer import GuardedTrainer

    whole = weights(train("lora", tiny_llama, chats, tmp_path / "whole", **KINDS[kind]))
    untouched = GuardedTrainer._save_checkpoint

    class Killed(BaseException):
        pass

    def die(self: Any, model: Any, trial: Any) -> None:
        untouched(self, model, trial)
        if self.state.global_step == 3:
            raise Killed

    monkeypatch.setattr(GuardedTrainer, "_save_checkpoint", die)
    with pytest.raises(Killed):
        train("lora", tiny_llama, chats, tmp_path / "killed", **KINDS[kind])
    monkeypatch.setattr(GuardedTrainer, "_save_checkpoint", untouched)
    result = train("lora", tiny_llama, chats, tmp_path / "killed", **KINDS[kind])
    assert result["metrics"]["training"]["resumed_from_step"] == 3
    assert weights(result) == whole


def test_qlora_trains_in_fp32_and_merges_into_the_dequantized_base(
    tiny_llama: Path, chats: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    changes = {"quantization": "nf4", "optimizer__learning_rate": "2e-2", "schedule__max_steps": 10, **SCORED}
    result = train("lora", tiny_llama, chats, tmp_path, save="both", **changes)
    saved = load_file(Path(result["run"]) / "adapter" / "adapter_model.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in saved.values())
    # bf16 has 8 bits of mantissa: a tensor trained in it would survive the round trip unchanged.
    assert any(not torch.equal(t, t.bfloat16().float()) for name, t in saved.items() if "lora_B" in name)
    assert result["metrics"]["drift"]["kl"] < 1e-4 and result["metrics"]["drift"]["top1_agreement"] > 0.99
    assert held_out_loss_of(result, chats, "none") == pytest.approx(result["metrics"]["after"]["loss"], abs=1e-3)


def test_an_adapter_on_an_adapter_on_a_quantized_base(
    tiny_llama: Path, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both adapters are active, the lower one frozen, while training, after a resume, and in the result."""
    from alignkit.training.trainer import GuardedTrainer

    changes = {"quantization": "nf4", "optimizer__learning_rate": "2e-2", **SCORED}
    parent = train("lora", tiny_llama, chats, tmp_path, **changes)
    before = weights(parent)
    child = train("lora", Path(parent["path"]), chats, tmp_path, seed=3, **changes)
    assert child["metrics"]["before"]["loss"] == pytest.approx(parent["metrics"]["after"]["loss"], abs=1e-5)
    assert child["metrics"]["training"]["loss_last"] < child["metrics"]["training"]["loss_first"]
    assert weights(parent) == before
    assert held_out_loss_of(child, chats, "nf4") == pytest.approx(child["metrics"]["after"]["loss"], abs=2e-4)

    untouched = GuardedTrainer._save_checkpoint

    class Killed(BaseException):
        pass

    def die(self: Any, model: Any, trial: Any) -> None:
        untouched(self, model, trial)
        if self.state.global_step == 2:
            raise Killed

    monkeypatch.setattr(GuardedTrainer, "_save_checkpoint", die)
    with pytest.raises(Killed):
        train("lora", Path(parent["path"]), chats, tmp_path / "again", seed=3, **changes)
    monkeypatch.setattr(GuardedTrainer, "_save_checkpoint", untouched)
    again = train("lora", Path(parent["path"]), chats, tmp_path / "again", seed=3, **changes)
    assert again["metrics"]["training"]["resumed_from_step"] == 2
    assert weights(again) == weights(child)


def test_quantization_redone_after_the_run(tiny_llama: Path, chats: Path, tmp_path: Path) -> None:
    """save=merged asked for later reloads the quantized base with the adapter on it, and measures the drift."""
    changes = {"quantization": "nf4", **SCORED}
    first = train("lora", tiny_llama, chats, tmp_path, **changes)
    merged = train("lora", tiny_llama, chats, tmp_path, save="merged", **changes)
    assert merged["run"] == first["run"] and merged["metrics"]["drift"]["tokens"] > 0
