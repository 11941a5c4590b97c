"""A tiny policy plays its reward: the run is stopped, and its result is what the true metric liked best."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import alignkit
from alignkit.errors import NumericsError
from tests.tiny import save_tiny

REWARDS = '''
def share(completions):
    texts = [one if isinstance(one, str) else one[0]["content"] for one in completions]
    return [sum(sign.isalpha() and sign.isascii() for sign in text) / max(1, len(text)) for text in texts]


def letters(completions, **rest):
    return share(completions)


def half(completions, **rest):
    """Half of the signs are to be letters: more of them is better at first and worse in the end."""
    return [1 - 2 * abs(one - 0.5) for one in share(completions)]


def others(completions, **rest):
    return [1 - one for one in share(completions)]
'''


def train(tmp_path: Path, true: str, **changes: Any) -> dict[str, Any]:
    model, data, code = tmp_path / "llama", tmp_path / "prompts.jsonl", tmp_path / "play.py"
    if not model.exists():
        save_tiny(model, seed=1)
        code.write_text(REWARDS)
        rows = [{"prompt": [{"role": "user", "content": f"say {number}"}]} for number in range(56)]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "model": model,
        "data": data,
        "run.root": tmp_path / "runs",
        "model.dtype": "fp32",
        "data.holdout": 40,
        "rlhf.algorithm": "rloo",
        "rlhf.rewards": f"{code}:letters",
        "rlhf.true_reward": f"{code}:{true}",
        "rlhf.prompts": 8,
        "rlhf.samples": 8,
        "rlhf.max_new_tokens": 8,
        "rlhf.kl.coefficient": 0.001,
        "rlhf.missing_eos_penalty": 0,
        "rlhf.stop.every": 4,
        "rlhf.stop.rows": 16,
        "batch.size": 64,
        "optimizer.learning_rate": 1e-2,
        "schedule.max_steps": 24,
        "schedule.decay": "constant",
        "checkpoint.every": 100,
        "evaluation.rows": 24,
        "evaluation.samples": 0,
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    return alignkit.train("rlhf", [f"{key}={value}" for key, value in values.items()], allow_code=True)


def test_a_played_reward_ends_the_run_with_the_best_weights(tmp_path: Path) -> None:
    result = train(tmp_path, "half", rlhf__stop__true_reward_drop=0)
    run = Path(result["run"])
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["stopped_by"] == "true_reward_drop"
    stopped, looks = result["metrics"]["stopped_by"], result["metrics"]["looks"]
    best = max(looks[1:], key=lambda look: look["true_reward"])
    assert stopped["kept_step"] == best["step"] < stopped["step"] < 24
    assert stopped["step"] == looks[-1]["step"] == result["metrics"]["training"]["steps"]
    kept = load_file(run / "checkpoints" / f"checkpoint-{best['step']}" / "model.safetensors")
    saved = load_file(run / "model" / "model.safetensors")
    assert kept.keys() == saved.keys() and all(torch.equal(kept[name], saved[name]) for name in kept)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rewards = [line["rollout/reward"] for line in lines if "rollout/reward" in line]
    assert rewards[-1] > rewards[0] + 0.3, "the optimized reward rose all the while"
    after, before = result["metrics"]["after"], result["metrics"]["before"]
    assert after["change"] == pytest.approx(after["true_reward"] - before["true_reward"])
    assert after["change_interval"][0] > 0, "what was kept is better than the start"


def test_where_nothing_is_worth_keeping_the_run_fails(tmp_path: Path) -> None:
    with pytest.raises(NumericsError, match="There are no weights worth keeping"):
        train(tmp_path, "others", rlhf__stop__true_reward_drop=0)
    [run] = (tmp_path / "runs").glob("rlhf-*")
    assert not (run / "manifest.json").exists()


def test_a_policy_that_goes_too_far_keeps_what_it_was_best_at(tmp_path: Path) -> None:
    result = train(tmp_path, "half", rlhf__stop__kl=1.0, rlhf__stop__window=1, rlhf__stop__every=2)
    manifest = json.loads((Path(result["run"]) / "manifest.json").read_text())
    assert manifest["stopped_by"] == "kl" and result["metrics"]["stopped_by"]["step"] < 24
    assert "above rlhf.stop.kl=1" in result["metrics"]["stopped_by"]["why"]


def test_the_best_weights_of_a_run_that_goes_to_its_end(tmp_path: Path) -> None:
    result = train(tmp_path, "half", rlhf__stop__keep="best", schedule__max_steps=16)
    run = Path(result["run"])
    assert json.loads((run / "manifest.json").read_text())["stopped_by"] is None
    looks = result["metrics"]["looks"]
    best = max(looks[1:], key=lambda look: look["true_reward"])["step"]
    assert [look["step"] for look in looks] == [0, 4, 8, 12, 16] and best < 16
    kept = load_file(run / "checkpoints" / f"checkpoint-{best}" / "model.safetensors")
    saved = load_file(run / "model" / "model.safetensors")
    assert all(torch.equal(kept[name], saved[name]) for name in kept)
