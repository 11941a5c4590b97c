"""A reward training that was cut off goes on to the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.stages.dpo.test_run_resume import Killed, killing
from tests.stages.reward.making import labelled, lines, pair, reward, scored, scored_pair, write_rows
from tests.stages.runs import weights
from tests.tiny import save_tiny

RECIPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "lora with dropout": (pair, {"adapter": "lora", "adapter__dropout": "0.2"}),
    "full with margins": (scored_pair, {"reward__margin": 0.3}),
    "scores": (scored, {"adapter": "lora", "reward__learn": "scores"}),
    "labels in bf16": (labelled, {"adapter": "lora", "reward__learn": "labels", "model__dtype": "bf16"}),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "llama", initializer_range=0.3)


@pytest.mark.parametrize("name", RECIPES)
def test_resuming_is_exact_after_any_step(
    name: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after each step in turn, across an epoch's end, with gradient accumulation: the same bytes, the same
    figures."""
    make, options = RECIPES[name]
    data = write_rows(tmp_path / "rows.jsonl", 14, make)
    # 10 rows: an epoch is three steps, the last of them of two rows.
    changes = {**options, "batch__micro": 2, "schedule__max_steps": 5, "data__holdout": 4, "evaluation__rows": 4}

    def figures(result: dict[str, Any]) -> list[dict[str, Any]]:
        return [{k: v for k, v in line.items() if "/" in k or k == "loss"} for line in lines(result)]

    whole = reward(model, data, tmp_path / "whole", **changes)
    for step in range(1, 5):
        root = tmp_path / f"killed{step}"
        revive = killing(monkeypatch, step)
        with pytest.raises(Killed):
            reward(model, data, root, **changes)
        revive()
        torch.manual_seed(step)  # whatever state the process is in must not matter
        result = reward(model, data, root, **changes)
        assert result["metrics"]["training"]["resumed_from_step"] == step
        assert weights(result) == weights(whole), f"killed after step {step}"
        assert figures(result) == figures(whole)
        assert result["metrics"]["after"]["margin"] == whole["metrics"]["after"]["margin"]


def test_after_training_nothing_is_trained_again(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off in the evaluation, and asked for another save or other rows later: the weights stay."""
    from alignkit.stages.reward.evaluation import Examination

    data = write_rows(tmp_path / "rows.jsonl", 24, pair)
    changes = {"adapter": "lora", "schedule__max_steps": 3}
    untouched = Examination.scores

    def dies(self: Any, *given: Any, when: str, **more: Any) -> Any:
        if when == "after":
            raise Killed
        return untouched(self, *given, when=when, **more)

    monkeypatch.setattr(Examination, "scores", dies)
    with pytest.raises(Killed):
        reward(model, data, tmp_path / "runs", **changes)
    monkeypatch.setattr(Examination, "scores", untouched)
    from alignkit.training import stage

    monkeypatch.setattr(stage, "train", lambda *_: pytest.fail("it was trained again"))
    result = reward(model, data, tmp_path / "runs", **changes)
    assert result["metrics"]["after"]["rows"] == 8
    fewer = reward(model, data, tmp_path / "runs", **changes, evaluation__rows=5)
    assert fewer["run"] == result["run"] and fewer["metrics"]["after"]["rows"] == 5
    both = reward(model, data, tmp_path / "runs", **changes, evaluation__rows=5, save="both")
    assert (Path(both["run"]) / "adapter" / "adapter_config.json").exists()
    assert (Path(both["path"]) / "config.json").exists()
