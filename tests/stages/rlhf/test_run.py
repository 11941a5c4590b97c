"""Every algorithm really learns: the reward of the answers rises, through the stage and on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.stages.rlhf.policies import learn, lines, rewards, write_prompts
from tests.stages.runs import shell, words
from tests.tiny import save_tiny

ALGORITHMS: dict[str, dict[str, Any]] = {
    # Four passes over each rollout: as many rollouts take four times as many steps.
    "ppo": {"rlhf__kl__coefficient": 0.01, "schedule__max_steps": 96},
    "ppo with the KL in the loss": {
        "rlhf__kl__where": "loss",
        "rlhf__kl__coefficient": 0.01,
        "schedule__max_steps": 96,
    },
    "rloo": {"rlhf__algorithm": "rloo", "rlhf__kl__coefficient": 0.01},
    "grpo": {"rlhf__algorithm": "grpo", "rlhf__kl__coefficient": 0.01},
    "grpo with the KL in the reward": {"rlhf__algorithm": "grpo", "rlhf__kl__where": "reward"},
    "dr. grpo": {
        "rlhf__algorithm": "grpo",
        "rlhf__loss": "dr_grpo",
        "rlhf__advantage": "group",
        "rlhf__kl__where": "off",
    },
    "gspo": {"rlhf__algorithm": "grpo", "rlhf__importance": "sequence", "rlhf__kl__where": "off"},
    "dapo": {
        "rlhf__algorithm": "grpo",
        "rlhf__loss": "dapo",
        "rlhf__kl__where": "off",
        "rlhf__zero_variance": "resample",
        "rlhf__clip_high": 0.28,
    },
    "reinforce++": {"rlhf__algorithm": "reinforce++"},
    "reinforce++ with a baseline": {
        "rlhf__algorithm": "reinforce++",
        "rlhf__advantage": "group-batch",
        "rlhf__kl__where": "loss",
    },
    "online dpo": {"rlhf__algorithm": "online-dpo"},
    "online ipo": {"rlhf__algorithm": "online-dpo", "rlhf__dpo_loss": "ipo"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose layers say something, so that an adapter has something to change."""
    return save_tiny(tmp_path_factory.mktemp("model") / "wide", initializer_range=0.2)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("data") / "prompts.jsonl")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_reward_rises(name: str, model: Path, prompts: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"schedule__max_steps": 32, "rlhf__prompts": 8, "batch__size": 16, **ALGORITHMS[name]}
    result = learn(model, prompts, tmp_path, **changes)
    found = rewards(result)
    assert found[0] < 0.4
    last = found[-2:]
    assert sum(last) / len(last) > 0.6, found


@pytest.mark.parametrize("kind", ["trunk", "adapter"])
def test_an_adapter_learns_and_the_result_is_a_plain_adapter(
    kind: str, wide: Path, prompts: Path, tmp_path: Path
) -> None:
    from safetensors import safe_open

    changes: dict[str, Any] = {"adapter": "lora", "rlhf__value__kind": kind, "optimizer__learning_rate": 2e-2}
    result = learn(
        wide,
        prompts,
        tmp_path,
        **changes,
        rlhf__prompts=8,
        batch__size=16,
        schedule__max_steps=48,
        rlhf__kl__coefficient=0.01,
    )
    found = rewards(result)
    assert sum(found[-2:]) / 2 > found[0] + 0.2, found
    with safe_open(Path(result["path"]) / "adapter_model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "value" in name]  # noqa: SIM118
    with safe_open(Path(result["run"]) / "value" / "value.safetensors", "pt") as file:
        names = set(file.keys())
        assert "value_head.linear.weight" in names and (len(names) > 2) == (kind == "adapter")
        assert file.get_tensor("value_head.linear.weight").abs().max() > 0


@pytest.mark.parametrize("algorithm", ["ppo", "rloo", "grpo", "online-dpo"])
def test_a_mixture_of_experts_learns_and_keeps_its_router_balanced(
    algorithm: str, prompts: Path, tmp_path: Path
) -> None:
    """The router's loss is in the step with the model's own coefficient, whatever goes through the model at once."""
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.02}
    model = save_tiny(tmp_path / "experts", "mixtral", initializer_range=0.3, sliding_window=None, **experts)
    changes: dict[str, Any] = {"rlhf__algorithm": algorithm, "rlhf__prompts": 8, "batch__size": 16}
    result = learn(model, prompts, tmp_path / "runs", schedule__max_steps=32, **changes)
    balance = [line["router_loss"] for line in lines(result) if "router_loss" in line]
    assert balance and all(1.9 < one < 4 for one in balance)  # a step without a pair has none
    found = rewards(result)
    assert sum(found[-2:]) / 2 > found[0] + 0.1, found


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_the_reference_of_an_adapter_is_the_model_with_it(
    quantization: str, wide: Path, prompts: Path, tmp_path: Path
) -> None:
    """Training on from a trained adapter, on a plain base and on a quantized one: before the first step the KL is 0,
    where it would not be against the bare base; afterwards it is not."""
    if quantization != "none":
        pytest.importorskip("bitsandbytes")
    changes: dict[str, Any] = {
        "adapter": "lora",
        "quantization": quantization,
        "rlhf__algorithm": "rloo",
        "rlhf__prompts": 8,
        "batch__size": 16,
        "optimizer__learning_rate": 2e-2,
    }
    first = learn(wide, prompts, tmp_path, **changes, schedule__max_steps=8)
    second = learn(Path(first["path"]), prompts, tmp_path, **changes, schedule__max_steps=8)
    for result in (first, second):
        kl = [line["rollout/kl"] for line in lines(result) if "rollout/kl" in line]
        assert abs(kl[0]) < 1e-3 and max(abs(one) for one in kl[1:]) > 0.1


def test_the_whole_model_is_saved_without_its_value_head(model: Path, prompts: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    result = learn(model, prompts, tmp_path, schedule__max_steps=2)
    _, told = AutoModelForCausalLM.from_pretrained(result["path"], output_loading_info=True)
    assert not told["unexpected_keys"] and not told["missing_keys"]
    assert (Path(result["run"]) / "value" / "value.safetensors").is_file()


def test_a_rollout_is_told_with_its_texts_and_figures(model: Path, prompts: Path, tmp_path: Path) -> None:
    """4 prompts of 4 answers, steps of 8, 4 passes: eight steps a rollout; the first of each has its figures, and at
    the first the ratio is exactly 1."""
    result = learn(model, prompts, tmp_path, schedule__max_steps=16)
    found = lines(result)
    assert [line["step"] for line in found if "rollout" in line] == [1, 9]
    for line in (found[0], found[8]):
        assert line["shift"] == 0.0 and line["moved"] == 0.0 and line["clip_low"] == line["clip_high"] == 0.0
    assert all(line["shift"] > 0 for line in found[1:8])
    assert abs(found[0]["rollout/kl"]) < 1e-4 and abs(found[8]["rollout/kl"]) > 1e-4
    texts = [json.loads(line) for line in (Path(result["run"]) / "rollouts.jsonl").read_text().splitlines()]
    assert [(line["rollout"], line["step"]) for line in texts] == [(0, 0)] * 4 + [(1, 8)] * 4
    mean = [answer["reward"] for line in texts[:4] for answer in line["answers"]]
    assert sum(mean) / 16 == pytest.approx(found[0]["rollout/reward"])


def test_the_steps_follow_from_the_prompts(model: Path, prompts: Path, tmp_path: Path) -> None:
    """16 prompts to train on, twice, 4 a rollout: 8 rollouts of two steps."""
    result = learn(
        model, prompts, tmp_path, schedule__max_steps="null", schedule__epochs=2, rlhf__algorithm="rloo", rlhf__epochs=1
    )
    assert result["metrics"]["training"]["steps"] == 16
    file = Path(result["run"]) / "rollouts.jsonl"
    asked = [json.loads(line)["number"] for line in file.read_text().splitlines()]
    assert sorted(asked[:16]) == sorted(asked[16:]) == list(range(16))
    assert asked[:16] != asked[16:]


def test_the_kl_holds(model: Path, prompts: Path, tmp_path: Path) -> None:
    """A large coefficient keeps the policy near its reference."""
    far = {}
    for coefficient in (0.001, 5.0):
        changes: dict[str, Any] = {
            "rlhf__algorithm": "rloo",
            "rlhf__kl__coefficient": coefficient,
            "schedule__max_steps": 24,
        }
        result = learn(model, prompts, tmp_path, **changes)
        far[coefficient] = [line["rollout/kl"] for line in lines(result) if "rollout/kl" in line][-1]
    assert far[5.0] < 0.3 * far[0.001]


def test_an_adaptive_coefficient_moves(model: Path, prompts: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"rlhf__kl__control": "adaptive", "rlhf__kl__target": 0.5, "rlhf__kl__horizon": 100}
    result = learn(model, prompts, tmp_path, schedule__max_steps=24, **changes)
    found = [line["kl_coefficient"] for line in lines(result) if "kl_coefficient" in line]
    assert found[0] == 0.05
    assert found[1] == pytest.approx(0.05 * (1 - 0.2 * 16 / 100), rel=1e-6)  # the KL of the start is 0
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "rloo", "online-dpo"])
def test_nothing_to_learn_from_moves_nothing(algorithm: str, model: Path, prompts: Path, tmp_path: Path) -> None:
    """All answers are cut off, and those are left out (of online DPO: worth the same): the weights stay as they are."""
    from safetensors.torch import load_file

    changes: dict[str, Any] = {"rlhf__mask_truncated": algorithm != "online-dpo", "rlhf__max_new_tokens": 1}
    reward = "[{name: regex, pattern: '.*'}]" if algorithm == "online-dpo" else "[{name: length}]"
    result = learn(
        model,
        prompts,
        tmp_path,
        rlhf__algorithm=algorithm,
        rlhf__rewards=reward,
        schedule__max_steps=3,
        rlhf__missing_eos_penalty=0,
        **changes,
    )
    assert lines(result)[0]["rollout/truncated"] == 1.0 and len(lines(result)) == 3
    start, found = (load_file(path / "model.safetensors") for path in (model, Path(result["path"])))
    assert all(bool((start[name] == value).all()) for name, value in found.items())
    file = Path(result["run"]) / "metrics.jsonl"
    assert "null" not in file.read_text()


def test_cispo_weighs_ratios_up_to_its_bound(model: Path, prompts: Path, tmp_path: Path) -> None:
    """TRL's name for the bound is that of the ratio itself: at ratio 1 a step is grpo's of one token, not a fifth of
    it. Below 1 nothing is clipped, and nothing is said of it."""
    norms = {}
    for loss in ("cispo", "dapo"):
        changes: dict[str, Any] = {"rlhf__algorithm": "grpo", "rlhf__kl__where": "off", "rlhf__loss": loss}
        [line] = lines(learn(model, prompts, tmp_path, **changes, schedule__max_steps=1, batch__size=16))
        norms[loss] = line["grad_norm"]
        assert "clip_high" in line and ("clip_low" in line) == (loss == "dapo")
    assert norms["cispo"] == pytest.approx(norms["dapo"], rel=1e-4)


def test_the_command_line(model: Path, prompts: Path, tmp_path: Path) -> None:
    """`alignkit train recipe=grpo`: the path alone on stdout, and the same path at once when it is asked again."""
    from tests.stages.rlhf.policies import BASICS

    asked = words(model, prompts, tmp_path / "runs", **{**BASICS, "batch__size": 16, "schedule__max_steps": 2})
    asked.append("evaluation.rows=8")
    first = shell("grpo", asked)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines() == [str(Path(first.stdout.strip()))]
    assert Path(first.stdout.strip(), "model.safetensors").is_file()
    assert "reward (regex)" in first.stderr
    assert shell("grpo", asked).stdout == first.stdout


def test_large_rewards_leave_the_policy_its_share_of_a_step(model: Path, prompts: Path, tmp_path: Path) -> None:
    """With whitened advantages the policy's gradient does not know how large rewards are; the values' does, and is
    clipped by itself."""
    norms = {}
    for weight in (1, 1000):
        reward = f"[{{name: length, unit: characters, weight: {weight}}}]"
        result = learn(
            model,
            prompts,
            tmp_path,
            rlhf__rewards=reward,
            rlhf__value__detach=True,
            rlhf__kl__where="off",
            schedule__max_steps=1,
        )
        norms[weight] = lines(result)[0]
    assert norms[1000]["value_grad_norm"] == pytest.approx(1000 * norms[1]["value_grad_norm"], rel=1e-2)
    assert norms[1000]["grad_norm"] == pytest.approx(norms[1]["grad_norm"], rel=1e-2)
