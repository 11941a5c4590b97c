"""What is refused before a model is read, and what every recipe that ships composes to."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from alignkit.errors import RequestError
from alignkit.journey import check
from alignkit.stages.rlhf.recipe import Recipe, RlhfOptions
from alignkit.stages.rlhf.recipe_algorithms import TABLE, settle
from alignkit.stages.rlhf.recipe_faults import OF_ALGORITHMS
from tests.stages.rlhf.policies import BASICS, learn, write_prompts
from tests.stages.runs import words
from tests.tiny import save_tiny

RECIPES = ("rlhf", "ppo", "rloo", "grpo", "dr-grpo", "gspo", "dapo", "reinforce-plus-plus", "online-dpo")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("data") / "prompts.jsonl")


def found(model: Path, prompts: Path, recipe: str = "rlhf", basics: bool = True, **changes: Any) -> dict[str, str]:
    """Faults by their places."""
    values = {**(BASICS if basics else {"rlhf__rewards": "json"}), **changes}
    _, faults = check(recipe, words(model, prompts, Path("runs"), **values))
    return {fault.where.split(" ")[0]: f"{fault.what} {fault.instead}" for fault in faults}


@pytest.mark.parametrize("recipe", RECIPES)
def test_shipped_recipes_are_right(recipe: str, model: Path, prompts: Path) -> None:
    composed, faults = check(recipe, [f"model={model}", f"data={prompts}", "rlhf.rewards=json"])
    assert not faults
    assert isinstance(composed.recipe, Recipe)


def test_what_the_recipes_settle(model: Path, prompts: Path) -> None:
    def of(recipe: str) -> Any:
        composed, _ = check(recipe, [f"model={model}", f"data={prompts}", "rlhf.rewards=json"])
        assert isinstance(composed.recipe, Recipe)
        return settle(composed.recipe.rlhf)

    assert (of("ppo").epochs, of("ppo").kl_where, of("ppo").whiten_advantages) == (4, "reward", True)
    assert (of("grpo").kl_estimator, of("grpo").kl_coefficient, of("grpo").advantage) == ("k3", 0.04, "group-std")
    assert (of("dr-grpo").loss, of("dr-grpo").advantage, of("dr-grpo").kl_where) == ("dr_grpo", "group", "off")
    assert (of("gspo").importance, of("gspo").clip_high) == ("sequence", 4e-4)
    assert (of("dapo").loss, of("dapo").clip_low, of("dapo").clip_high) == ("dapo", 0.2, 0.28)
    assert of("online-dpo").reads_reference and not of("dapo").reads_reference


@pytest.mark.parametrize("algorithm", TABLE)
def test_an_algorithm_named_alone_is_enough(algorithm: str, model: Path, prompts: Path) -> None:
    """What a sweep over algorithms asks for."""
    assert not found(model, prompts, basics=False, rlhf__algorithm=algorithm, batch__size=16)


def test_a_budget_of_nothing(model: Path, prompts: Path) -> None:
    assert "no answer" in found(model, prompts, rlhf__max_new_tokens=0)["rlhf.max_new_tokens"]
    with pytest.raises(RequestError, match=r"rlhf\.max_new_tokens"):
        learn(model, prompts, Path("runs"), rlhf__max_new_tokens=0)


def test_answers_that_leave_no_room(model: Path, prompts: Path) -> None:
    told = found(model, prompts, rlhf__max_new_tokens=510)["rlhf.max_new_tokens"]
    assert "leave no room for a prompt: the model reads 512" in told and "256 or less" in told


UNREAD: dict[str, dict[str, Any]] = {
    "rlhf.gae_lambda": {"rlhf__algorithm": "rloo", "rlhf__gae_lambda": 0.9},
    "rlhf.gamma": {"rlhf__algorithm": "grpo", "rlhf__gamma": 0.9},
    "rlhf.loss": {"rlhf__loss": "dapo"},
    "rlhf.importance": {"rlhf__importance": "sequence"},
    "rlhf.beta": {"rlhf__beta": 0.1},
    "rlhf.dpo_loss": {"rlhf__dpo_loss": "ipo"},
    "rlhf.value.coefficient": {"rlhf__algorithm": "grpo", "rlhf__value__coefficient": 0.5},
    "rlhf.kl.coefficient": {"rlhf__algorithm": "online-dpo", "rlhf__kl__coefficient": 0.5},
    "rlhf.whiten_rewards": {"rlhf__algorithm": "reinforce++", "rlhf__whiten_rewards": True},
    "rlhf.whiten_advantages": {"rlhf__algorithm": "grpo", "rlhf__whiten_advantages": True},
    "rlhf.clip_high": {"rlhf__algorithm": "online-dpo", "rlhf__clip_high": 0.3},
    "rlhf.entropy_coefficient": {"rlhf__algorithm": "rloo", "rlhf__entropy_coefficient": 0.1},
    "rlhf.kl.target": {"rlhf__kl__target": 3},
    "rlhf.kl.estimator": {"rlhf__kl__where": "off", "rlhf__kl__estimator": "k3"},
    "rlhf.clip": {"rlhf__algorithm": "grpo", "rlhf__loss": "cispo", "rlhf__clip": 0.1},
    "rlhf.max_draws": {"rlhf__max_draws": 3},
    "rlhf.zero_variance": {"rlhf__zero_variance": "drop"},
}


def test_losses_without_clipping_read_no_clip(model: Path, prompts: Path) -> None:
    for loss, option, value in (
        ("sapo", "clip_high", 0.3),
        ("vespo", "clip", 0.1),
        ("vespo", "importance", "sequence"),
    ):
        faults = found(model, prompts, rlhf__algorithm="grpo", rlhf__loss=loss, **{f"rlhf__{option}": value})
        assert f"the loss {loss} does not read it" in faults[f"rlhf.{option}"]


@pytest.mark.parametrize("where", UNREAD)
def test_what_nothing_reads_is_refused(where: str, model: Path, prompts: Path) -> None:
    assert where in found(model, prompts, **UNREAD[where])


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "one answer has no siblings": ("rlhf.samples", {"rlhf__algorithm": "rloo", "rlhf__samples": 1}, "compares"),
    "no divisor": ("batch.size", {"batch__size": 7}, "does not divide"),
    "pairs": ("batch.size", {"rlhf__algorithm": "online-dpo", "batch__size": 2}, "whole number of prompts"),
    "a KL of nothing": ("rlhf.kl.coefficient", {"rlhf__kl__coefficient": 0}, "rlhf.kl.where=off"),
    "rloo has no KL in its loss": ("rlhf.kl.where", {"rlhf__algorithm": "rloo", "rlhf__kl__where": "loss"}, "reward"),
    "grpo's KL": ("rlhf.kl.estimator", {"rlhf__algorithm": "grpo", "rlhf__kl__estimator": "k2"}, "k3"),
    "values apart need an adapter": ("rlhf.value.kind", {"rlhf__value__kind": "adapter"}, "adapter=lora"),
    "weights of nothing": ("rlhf.rewards", {"rlhf__rewards": "[{name: json, weight: 0}]"}, "worth the same"),
    "no such reward": ("rlhf.rewards[0].name", {"rlhf__rewards": "jsn"}, "Did you mean json"),
    "no such true reward": ("rlhf.true_reward[0].name", {"rlhf__true_reward": "jsn"}, "Did you mean json"),
    "code": ("rlhf.rewards[0].name", {"rlhf__rewards": "json:loads"}, "--allow-code"),
    "early stopping": ("schedule.patience", {"schedule__patience": 2}, "held-out loss"),
    "blocks": ("data.packing", {"data__packing": "best-fit"}, "blocks"),
    "halves of prompts": ("data.overlength", {"data__overlength": "split"}, "the rows are prompts"),
    "whose tokens": ("data.train_on", {"data__train_on": "all"}, "imitated"),
    "batch's advantage": ("rlhf.advantage", {"rlhf__algorithm": "grpo", "rlhf__advantage": "batch"}, "group-batch"),
    "group's advantage": (
        "rlhf.advantage",
        {"rlhf__algorithm": "reinforce++", "rlhf__advantage": "group-std"},
        "group-batch",
    ),
    "the buffer is the budget": ("rlhf.overlong_buffer", {"rlhf__overlong_buffer": 4}, "fifth"),
    "TRL's rollouts": ("trl.top_k", {"rlhf__algorithm": "grpo", "trl__top_k": 5}, "draws the answers itself"),
    "TRL's names": ("trl.epsilon", {"rlhf__algorithm": "grpo", "trl__epsilon": 0.1}, "rlhf.clip"),
    "TRL has no ppo": ("trl", {"trl__delta": 2.0}, "does not use TRL"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused(name: str, model: Path, prompts: Path) -> None:
    where, changes, told = REFUSED[name]
    faults = found(model, prompts, **changes)
    assert where in faults, faults
    assert told in faults[where]


def test_a_policy_without_an_end(prompts: Path, tmp_path: Path) -> None:
    """Told before the first rollout."""
    import json

    model = save_tiny(tmp_path / "endless", template="{% for m in messages %}{{ m['content'] }}{% endfor %}")
    for name, key in (
        ("config.json", "eos_token_id"),
        ("generation_config.json", "eos_token_id"),
        ("tokenizer_config.json", "eos_token"),
    ):
        config = json.loads((model / name).read_text())
        config.pop(key, None)
        (model / name).write_text(json.dumps(config))
    with pytest.raises(RequestError, match="names a token that ends an answer"):
        learn(model, prompts, tmp_path / "runs")


def test_more_prompts_than_there_are(model: Path, prompts: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="asks 32 different prompts, and there are 16"):
        learn(model, prompts, tmp_path, rlhf__prompts=32)


def test_a_reward_that_needs_the_right_answer(model: Path, prompts: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="has none that can be checked"):
        learn(model, prompts, tmp_path, rlhf__rewards="exact")
    answered = write_prompts(tmp_path / "answered.jsonl", answers=True)
    learn(model, answered, tmp_path, rlhf__rewards="exact", schedule__max_steps=1)


def test_prompts_longer_than_the_context(model: Path, tmp_path: Path) -> None:
    """Counted and dropped up to data.overlength_limit, an error beyond it; no model is read."""
    import json

    data = write_prompts(tmp_path / "prompts.jsonl", 30)
    with data.open("a") as file:
        for _ in range(2):
            file.write(json.dumps({"prompt": [{"role": "user", "content": "a" * 600}]}) + "\n")
    result = learn(model, data, tmp_path / "runs", data__max_length=510, schedule__max_steps=1)
    assert sum(result["metrics"]["data"]["dropped"].values()) == 2
    with pytest.raises(RequestError, match="overlength") as caught:
        learn(model, data, tmp_path / "runs", data__max_length=510, data__overlength_limit=0.01)
    assert "smaller rlhf.max_new_tokens" in str(caught.value)
    assert "data.max_length=6" not in str(caught.value), "which the model does not read"
    with pytest.raises(RequestError, match=r"data\.max_length=\d+ would take"):
        learn(model, data, tmp_path / "runs", data__max_length=12, data__overlength_limit=0.01)


def test_every_option_is_read_by_some_algorithm() -> None:
    """The table of what algorithms read names no group that is none's, and every option of the table exists."""
    known = {group for one in TABLE.values() for group in one.reads}
    assert set(OF_ALGORITHMS.values()) <= known
    assert set(OF_ALGORITHMS) <= {one.name for one in fields(RlhfOptions)}
