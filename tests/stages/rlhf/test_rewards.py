"""Rewards in a policy's training: what fails is told, what a run made is a reward, and its base is not held twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignkit.errors import NumericsError
from tests.stages.reward.making import pair, reward, write_rows
from tests.stages.rlhf.policies import BASICS, learn, lines, write_prompts
from tests.stages.runs import shell, weights, words
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "llama", initializer_range=0.2)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("data") / "prompts.jsonl")


def code(tmp_path: Path, returns: str) -> str:
    """A reward that gives what is not a list of finite numbers."""
    file = tmp_path / "mine.py"
    file.write_text(f"import math\n\ndef score(prompts, completions, **columns):\n    return {returns}\n")
    return f"{file}:score"


BAD = {
    "nothing": "[None for _ in prompts]",
    "no number": "[math.nan for _ in prompts]",
    "a wrong length": "[1.0, 2.0, 3.0]",
    "an error": "[1 / 0 for _ in prompts]",
}


@pytest.mark.parametrize("name", BAD)
def test_a_reward_that_fails_ends_the_run_with_prompt_and_answer(
    name: str, model: Path, prompts: Path, tmp_path: Path
) -> None:
    with pytest.raises(NumericsError) as told:
        learn(model, prompts, tmp_path / "runs", allow_code=True, rlhf__rewards=code(tmp_path, BAD[name]))
    assert "prompts.jsonl line" in str(told.value) and "prompt" in str(told.value).lower()


def test_it_ends_with_3_on_the_command_line(model: Path, prompts: Path, tmp_path: Path) -> None:
    asked = words(model, prompts, tmp_path / "runs", **{**BASICS, "rlhf__rewards": code(tmp_path, BAD["no number"])})
    done = shell("rlhf", asked, "--allow-code")
    assert done.returncode == 3, done.stderr
    assert not done.stdout


def test_answers_without_a_reward_are_left_out_and_counted(model: Path, prompts: Path, tmp_path: Path) -> None:
    """Every third answer is not judged; the others are learned from."""
    source = code(tmp_path, "[None if at % 3 == 0 else float(at) for at in range(len(prompts))]")
    result = learn(
        model,
        prompts,
        tmp_path / "runs",
        allow_code=True,
        rlhf__rewards=source,
        rlhf__on_error="skip",
        rlhf__algorithm="rloo",
        schedule__max_steps=2,
    )
    first = lines(result)[0]
    assert first["rollout/skipped"] == pytest.approx(6 / 16)
    assert first["policy_loss"] == pytest.approx(first["policy_loss"])  # a number
    texts = [json.loads(line) for line in (Path(result["run"]) / "rollouts.jsonl").read_text().splitlines()]
    problems = [answer.get("problem") for answer in texts[0]["answers"]]
    assert [problem is not None for problem in problems] == [True, False, False, True]


def test_when_nothing_is_judged_nothing_moves(model: Path, prompts: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    result = learn(
        model,
        prompts,
        tmp_path / "runs",
        allow_code=True,
        rlhf__rewards=code(tmp_path, BAD["nothing"]),
        rlhf__on_error="skip",
        schedule__max_steps=2,
        rlhf__algorithm="grpo",
        optimizer__weight_decay=0,
    )
    before, after = load_file(model / "model.safetensors"), load_file(Path(result["path"]) / "model.safetensors")
    assert all(bool((after[name] == value).all()) for name, value in before.items())


def test_a_run_that_is_never_rewarded_ends(model: Path, prompts: Path, tmp_path: Path) -> None:
    source = code(tmp_path, BAD["nothing"])
    changes: dict[str, Any] = {"rlhf__on_error": "skip", "rlhf__algorithm": "rloo", "schedule__max_steps": 12}
    with pytest.raises(NumericsError, match="Not one answer of the last 3 rollouts got a reward"):
        learn(model, prompts, tmp_path / "runs", allow_code=True, rlhf__rewards=source, **changes)


def test_columns_of_the_prompts_reach_the_reward(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "prompts.jsonl"
    rows = [{"prompt": [{"role": "user", "content": f"q{at}"}], "worth": at} for at in range(24)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = code(tmp_path, "[float(one) for one in columns['worth']]")
    result = learn(model, data, tmp_path / "runs", allow_code=True, rlhf__rewards=source, schedule__max_steps=1)
    for line in map(json.loads, (Path(result["run"]) / "rollouts.jsonl").read_text().splitlines()):
        [message] = line["prompt"]
        assert {answer["reward"] for answer in line["answers"]} == {float(message["content"][1:])}


def test_rewards_are_mixed_and_each_is_told(model: Path, prompts: Path, tmp_path: Path) -> None:
    mixed = "[{name: length, unit: characters, weight: 0.5}, {name: regex, pattern: '[a-m]', weight: 2}]"
    result = learn(model, prompts, tmp_path, rlhf__rewards=mixed, schedule__max_steps=1)
    first = lines(result)[0]
    expected = 0.5 * first["rollout/reward/length"] + 2 * first["rollout/reward/regex"]
    assert first["rollout/reward"] == pytest.approx(expected)


@pytest.fixture(scope="module")
def judge(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A reward model as an adapter on the policy's own base."""
    folder = tmp_path_factory.mktemp("judge")
    data = write_rows(folder / "pairs.jsonl", 24, pair)
    return reward(model, data, folder / "runs", adapter="lora", schedule__max_steps=12, evaluation__rows=0)


@pytest.mark.parametrize("save", ["auto", "merged"])
def test_a_reward_model_on_the_policy_s_base(
    save: str, model: Path, prompts: Path, judge: dict[str, Any], tmp_path: Path
) -> None:
    """A run's adapter as the reward: it scores as it does alone, and the result holds nothing of it."""
    from safetensors import safe_open

    from alignkit.rewards.judged import Judged
    from alignkit.rewards.mixture import reward as alone

    result = learn(
        model,
        prompts,
        tmp_path,
        adapter="lora",
        rlhf__rewards=judge["path"],
        rlhf__value__kind="adapter",
        schedule__max_steps=9,
        evaluation__rows=8,
        save=save,
    )
    texts = [json.loads(line) for line in (Path(result["run"]) / "rollouts.jsonl").read_text().splitlines()]
    scored = [(line["prompt"], answer["text"], answer["reward"]) for line in texts for answer in line["answers"]]
    rows = [Judged(prompt=prompt, answer=text) for prompt, text, _ in scored]
    assert alone(judge["path"])(rows) == pytest.approx([found for _, _, found in scored], abs=1e-4)
    assert texts[-1]["rollout"] == 1  # after eight steps of the policy the reward is what it was
    [file] = Path(result["path"]).glob("*.safetensors")
    with safe_open(file, "pt") as held:
        names = list(held.keys())
    assert not [name for name in names if "score" in name or "value" in name or "reward" in name]
    assert weights(result)
