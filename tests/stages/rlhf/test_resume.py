"""A policy's training that was cut off goes on to the same bits, in the middle of a rollout too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.stages.dpo.test_run_resume import Killed, killing
from tests.stages.rlhf.policies import figures, learn, lines, write_prompts
from tests.stages.runs import weights
from tests.tiny import save_tiny

RECIPES: dict[str, dict[str, Any]] = {
    "ppo, full, all that is remembered": {
        "rlhf__epochs": 2,
        "rlhf__reward_scale": "running",
        "rlhf__kl__control": "adaptive",
        "rlhf__kl__target": 0.1,
        "rlhf__kl__horizon": 100,
    },
    "ppo, an adapter with dropout": {"adapter": "lora", "adapter__dropout": 0.2, "rlhf__epochs": 2},
    "ppo, values apart, in bf16": {
        "adapter": "lora",
        "rlhf__value__kind": "adapter",
        "rlhf__value__learning_rate": 2e-2,
        "rlhf__epochs": 2,
        "model__dtype": "bf16",
    },
    "rloo": {"rlhf__algorithm": "rloo", "adapter": "lora", "rlhf__epochs": 2},
    "grpo that resamples": {
        "rlhf__algorithm": "grpo",
        "adapter": "lora",
        "rlhf__epochs": 2,
        "rlhf__zero_variance": "resample",
    },
    "online dpo": {"rlhf__algorithm": "online-dpo", "adapter": "lora", "rlhf__epochs": 2},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "llama", initializer_range=0.2)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # 6 to train on, 4 a rollout: a pass over the prompts ends in the middle of the second rollout.
    return write_prompts(tmp_path_factory.mktemp("data") / "prompts.jsonl", 14)


def value_of(result: dict[str, Any]) -> bytes | None:
    file = Path(result["run"]) / "value" / "value.safetensors"
    return file.read_bytes() if file.exists() else None


@pytest.mark.parametrize("name", RECIPES)
def test_resuming_is_exact_after_any_step(
    name: str, model: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollout is good for four steps. Killed at its beginning, in its middle, at its end, and in the next one: the
    weights, what was said and what was measured are the same."""
    changes: dict[str, Any] = {**RECIPES[name], "schedule__max_steps": 9, "checkpoint__every": 1, "batch__micro": 4}
    whole = learn(model, prompts, tmp_path / "whole", **changes)
    texts = (Path(whole["run"]) / "rollouts.jsonl").read_bytes()
    for step in (1, 3, 4, 6):
        root = tmp_path / f"killed{step}"
        revive = killing(monkeypatch, step)
        with pytest.raises(Killed):
            learn(model, prompts, root, **changes)
        revive()
        torch.manual_seed(step)  # whatever state the process is in must not matter
        result = learn(model, prompts, root, **changes)
        assert result["metrics"]["training"]["resumed_from_step"] == step
        assert weights(result) == weights(whole), f"killed after step {step}"
        assert value_of(result) == value_of(whole), f"killed after step {step}"
        assert figures(result) == figures(whole)
        assert (Path(result["run"]) / "rollouts.jsonl").read_bytes() == texts


def test_checkpoints_at_the_end_of_a_rollout_hold_none(model: Path, prompts: Path, tmp_path: Path) -> None:
    from alignkit.stages.rlhf.making import ROLLOUT

    result = learn(
        model, prompts, tmp_path, schedule__max_steps=4, checkpoint__every=1, checkpoint__keep=9, rlhf__epochs=2
    )
    folder = Path(result["run"]) / "checkpoints"
    assert [(folder / f"checkpoint-{step}" / ROLLOUT).exists() for step in (1, 2, 3, 4)] == [True, True, True, False]


def test_a_run_that_lost_its_last_checkpoint_goes_on_from_the_one_before(
    model: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was said after that checkpoint is said again, once."""
    changes: dict[str, Any] = {"schedule__max_steps": 9, "checkpoint__every": 3, "rlhf__epochs": 2, "adapter": "lora"}
    whole = learn(model, prompts, tmp_path / "whole", **changes)
    revive = killing(monkeypatch, 6)
    with pytest.raises(Killed):
        learn(model, prompts, tmp_path / "killed", **changes)
    revive()
    [run] = (tmp_path / "killed").iterdir()
    (run / "checkpoints" / "checkpoint-6" / "rollout.safetensors").write_bytes(b"damaged")
    result = learn(model, prompts, tmp_path / "killed", **changes)
    assert result["metrics"]["training"]["resumed_from_step"] == 3
    assert weights(result) == weights(whole)
    assert (Path(result["run"]) / "rollouts.jsonl").read_bytes() == (Path(whole["run"]) / "rollouts.jsonl").read_bytes()


LOSSES: dict[str, dict[str, Any]] = {
    "ppo": {},
    "reinforce++": {"rlhf__algorithm": "reinforce++", "rlhf__kl__where": "loss"},
    "online dpo": {"rlhf__algorithm": "online-dpo"},
    "rloo": {"rlhf__algorithm": "rloo"},
    "gspo": {"rlhf__algorithm": "grpo", "rlhf__importance": "sequence"},
    **{
        name: {"rlhf__algorithm": "grpo", "rlhf__loss": name}
        for name in ("grpo", "dr_grpo", "dapo", "bnpo", "luspo", "cispo", "sapo", "vespo")
    },
}


@pytest.mark.parametrize("name", LOSSES)
def test_how_many_answers_go_through_at_once_decides_nothing(
    name: str, model: Path, prompts: Path, tmp_path: Path
) -> None:
    """`batch.micro` is not in the run's key: parts of any size, of answers of any lengths, add up to the same step but
    for rounding. Answers without a letter are skipped, so that parts are of unequal sizes."""
    from safetensors.torch import load_file

    reward = tmp_path / "reward.py"
    reward.write_text(
        "def score(completions, **rest):\n"
        "    numbers = [sum(map(ord, one[0]['content'])) for one in completions]\n"
        "    return [None if number % 5 == 0 else float(number % 7) for number in numbers]\n"
    )
    found, keys = [], []
    for micro in (4, 16):
        result = learn(
            model,
            prompts,
            tmp_path / str(micro),
            allow_code=True,
            **LOSSES[name],
            rlhf__rewards=f"{reward}:score",
            rlhf__on_error="skip",
            rlhf__epochs=2,
            rlhf__max_new_tokens=6,
            batch__size=16,
            batch__micro=micro,
            schedule__max_steps=3,
            optimizer__name="sgd",
            optimizer__learning_rate=0.3,
            optimizer__max_grad_norm=0,
        )
        keys.append(result["key"])
        found.append(load_file(Path(result["path"]) / "model.safetensors"))
        assert 0 < lines(result)[0]["rollout/skipped"] < 1
    assert keys[0] == keys[1]
    start = load_file(model / "model.safetensors")
    moved = max(float((found[0][name] - value).abs().max()) for name, value in start.items())
    for weight, value in found[0].items():
        torch.testing.assert_close(value, found[1][weight], atol=1e-3 * moved, rtol=1e-4)
