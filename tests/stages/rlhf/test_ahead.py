"""The pass that reads a rollout serves its first step too, and decides nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from alignkit.stages.rlhf import making, trainer
from tests.stages.rlhf.policies import figures, learn, write_prompts
from tests.tiny import save_tiny

CASES: dict[str, dict[str, Any]] = {
    "ppo": {"adapter": "lora"},
    "ppo, one pass over each rollout": {"adapter": "lora", "rlhf__epochs": 1},
    "ppo on the whole model": {},
    "rloo": {"adapter": "lora", "rlhf__algorithm": "rloo"},
    "grpo": {"adapter": "lora", "rlhf__algorithm": "grpo", "rlhf__kl__where": "loss"},
    "reinforce++": {"adapter": "lora", "rlhf__algorithm": "reinforce++"},
    "answers left out": {"adapter": "lora", "rlhf__mask_truncated": True},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "wide", initializer_range=0.2)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("data") / "prompts.jsonl")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Gets who read each model: the maker policy or reference, or the trainer."""
    seen: list[str] = []
    plain, real = making.score, trainer.Ahead.read

    def scored(model: Any, *args: Any, wanted: Any = None, **kwargs: Any) -> Any:
        seen.append("policy" if wanted is None else "reference")
        return plain(model, *args, **kwargs) if wanted is None else plain(model, *args, wanted=wanted, **kwargs)

    def ahead(self: Any, rollout: Any) -> Any:
        seen.append("ahead")
        return real(self, rollout)

    monkeypatch.setattr(making, "score", scored)
    monkeypatch.setattr(trainer.Ahead, "read", ahead)
    return seen


def both(model: Path, prompts: Path, root: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[Any]:
    """Figures and weights of a run with the pass shared, and of one without."""
    changes = {"batch__size": 16, "schedule__max_steps": 4, **changes}
    found = []
    for name in ("shared", "apart"):
        if name == "apart":
            monkeypatch.setattr(trainer.RolloutTrainer, "reads_ahead", False)
        result = learn(model, prompts, root / name, **changes)
        weights = load_file(next(Path(result["path"]).glob("*model.safetensors")))
        found.append((figures(result), weights))
    return found


@pytest.mark.parametrize("name", CASES)
def test_it_comes_to_the_same_bits(
    name: str, model: Path, prompts: Path, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (shared, weights), (apart, same) = both(model, prompts, tmp_path, monkeypatch, **CASES[name])
    assert shared == apart
    assert all(bool((weights[key] == same[key]).all()) for key in same) and set(weights) == set(same)
    half = len(reads) // 2
    assert "policy" not in reads[:half] and "ahead" in reads[:half]
    assert "ahead" not in reads[half:] and "policy" in reads[half:]


@pytest.mark.parametrize(
    "changes",
    [
        {"batch__size": 8},  # two steps a rollout
        {"batch__micro": 8},  # two passes a step
        {"rlhf__batch": 8},  # two passes of reading
        {"adapter__dropout": 0.1},  # training is not what reading is
        {"rlhf__value__kind": "adapter"},  # policy and values are passes of their own
    ],
)
def test_where_the_passes_are_not_one_both_are_made(
    changes: dict[str, Any], model: Path, prompts: Path, tmp_path: Path, reads: list[str]
) -> None:
    learn(model, prompts, tmp_path, **{"adapter": "lora", "batch__size": 16, "schedule__max_steps": 2, **changes})
    assert "ahead" not in reads and "policy" in reads
