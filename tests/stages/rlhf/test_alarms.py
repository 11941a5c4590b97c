"""Warnings in words: made-up curves that go wrong in one way each, and curves that do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignkit.runs.directory import RunDirectory
from alignkit.stages.rlhf.alarms import STEPS, WINDOW, Watcher
from alignkit.stages.rlhf.recipe import Kl, RlhfOptions
from alignkit.stages.rlhf.watch import PolicyWatch


def line(progress: float, **more: float) -> dict[str, float]:
    """Figures of a rollout at a share of the run, as they should be."""
    figures = {
        "reward": 0.2 + 0.6 * progress,
        "kl": 4 * progress,
        "kl_token": 0.1 * progress,
        "entropy": 1.0 - 0.5 * progress,
        "length": 40.0,
        "truncated": 0.05,
        "repetition": 0.02,
        "length_correlation": 0.0,
        "level": 0.3,
        "distinct": 1.0,
        "skipped": 0.0,
        "explained_variance": 0.5 * progress,
    }
    return {"rollout": 0.0, **{f"rollout/{name}": value for name, value in (figures | more).items()}}


def run_through(watcher: Watcher, curve: Callable[[float], dict[str, float]], steps: int = 20) -> dict[str, str]:
    found: dict[str, str] = {}
    watcher.steps = steps
    for number in range(steps):
        fresh = watcher.training(number + 1, curve(number / steps))
        assert not set(fresh) & set(found), "said twice"
        found |= fresh
    return found


def test_a_training_as_it_should_be_is_quiet() -> None:
    assert run_through(Watcher("ppo"), line) == {}
    assert run_through(Watcher("grpo"), lambda p: line(p) | {"clip_low": 0.05, "clip_high": 0.1}) == {}


def test_one_bad_rollout_is_not_a_trend() -> None:
    watcher = Watcher("ppo")
    for number in range(9):
        figures = line(0.1) if number != 5 else line(0.1, truncated=0.9, repetition=0.4, kl_token=0.9)
        assert watcher.training(number + 1, figures) == {}


CASES: list[tuple[str, str, dict[str, Any], list[str]]] = [
    ("far", "ppo", {"kl": lambda p: 60 * p, "kl_token": lambda p: 0.3 * p}, ["nats an answer", "rlhf.kl.coefficient"]),
    ("far", "ppo", {"kl_token": lambda p: 1.5 * p}, ["a token", "rlhf.stop.kl"]),
    (
        "longer",
        "ppo",
        {"length": lambda p: 40 + 40 * p, "length_correlation": lambda p: 0.6},
        ["40 in the first rollout", "correlation 0.60"],
    ),
    ("endless", "ppo", {"truncated": lambda p: p}, ["0% did in the first"]),
    ("repeating", "ppo", {"repetition": lambda p: 0.5 * p}, ["runs of four tokens", "repetition"]),
    ("collapsing", "ppo", {"entropy": lambda p: 0.9 ** (60 * p)}, ["nats a token, 1 in the first rollout", "100%"]),
    ("level", "grpo", {"level": lambda p: 0.9}, ["90% of the prompts", "grpo learns", "rlhf.zero_variance"]),
    ("skipped", "ppo", {"skipped": lambda p: 0.4}, ["40% of them", "rlhf.on_error=skip"]),
    ("unexplained", "ppo", {"explained_variance": lambda p: -0.2}, ["-20% of the returns", "rlhf.value"]),
]


@pytest.mark.parametrize(("kind", "algorithm", "changes", "said"), CASES)
def test_what_goes_wrong_is_said_once(kind: str, algorithm: str, changes: dict[str, Any], said: list[str]) -> None:
    found = run_through(Watcher(algorithm), lambda p: line(p, **{name: value(p) for name, value in changes.items()}))
    assert set(found) == {kind}
    for words in said:
        assert words in found[kind]


@pytest.mark.parametrize(
    ("changes", "held"),
    [
        ({"algorithm": "ppo"}, "Raise rlhf.kl.coefficient"),
        ({"algorithm": "grpo", "kl": Kl(where="off")}, "Write rlhf.kl.where=loss"),
        ({"algorithm": "rloo", "kl": Kl(where="off")}, "Write rlhf.kl.where=reward"),
        ({"algorithm": "online-dpo"}, "Raise rlhf.beta"),
    ],
)
def test_advice_is_about_what_the_algorithm_reads(changes: dict[str, Any], held: str, tmp_path: Path) -> None:
    run = RunDirectory(path=tmp_path, key="k", stage="rlhf", created=0.0)
    watcher = PolicyWatch(run, RlhfOptions(rewards=[], **changes)).watcher
    found = run_through(watcher, lambda p: line(p, kl=60 * p, entropy=0.9 ** (60 * p)))
    assert set(found) == {"far", "collapsing"}
    assert all(f"{held}, or lower optimizer.learning_rate" in said for said in found.values())
    reads = changes["algorithm"] in ("ppo", "grpo")
    assert ("rlhf.entropy_coefficient" in found["collapsing"]) == reads
    assert held.startswith("Raise rlhf.kl") or "rlhf.kl.coefficient" not in " ".join(found.values())


def test_what_is_no_fault_of_the_training_is_not_said() -> None:
    assert run_through(Watcher("ppo"), lambda p: line(p, level=0.9)) == {}, "ppo has values"
    assert run_through(Watcher("ppo"), lambda p: line(p, length=40 + 40 * p)) == {}, "longer ones are worth no more"
    assert run_through(Watcher("ppo"), lambda p: line(p, truncated=0.9)) == {}, "so they were from the start"
    assert run_through(Watcher("ppo"), lambda p: line(p, explained_variance=-0.2 if p < 0.2 else 0.1)) == {}
    shorter = run_through(Watcher("ppo"), lambda p: line(p, length=40 + 40 * p, length_correlation=0.6, reward=0.2 - p))
    assert shorter == {}, "nothing was gained by it"


def test_steps_that_are_too_large() -> None:
    found = run_through(Watcher("grpo"), lambda p: line(p) | {"clip_low": 0.2, "clip_high": 0.25})
    assert set(found) == {"clipped"} and f"(mean of {STEPS} steps)" in found["clipped"] and "45%" in found["clipped"]


def test_steps_between_rollouts_count_for_clipping_only() -> None:
    watcher = Watcher("ppo", steps=100)
    for number in range(STEPS - 1):
        assert watcher.training(number + 1, {"loss": 0.1, "clip_low": 0.5}) == {}
    assert set(watcher.training(STEPS, {"loss": 0.1, "clip_low": 0.5})) == {"clipped"}
    assert watcher.first is None and not watcher.rollouts


def test_one_reward_is_paid_with_another() -> None:
    weights = {"model": 1.0, "length": -0.01}

    def curve(paid: float) -> Callable[[float], dict[str, float]]:
        # The model's reward rises, and what length adds falls: 100 words more cost 1.
        return lambda p: line(p, reward=p, **{"reward/model": p * (1 + paid), "reward/length": 50 + 100 * paid * p})

    found = run_through(Watcher("ppo", weights=weights), curve(0.8))
    assert set(found) == {"paid"} and "what length adds to it has fallen by" in found["paid"]
    assert run_through(Watcher("ppo", weights=weights), curve(0.1)) == {}
    assert run_through(Watcher("ppo", weights={"model": 1.0}), curve(0.8)) == {}


HACKED = {"true_change": -0.2, "true_change_low": -0.3, "true_change_high": -0.1, "reward_change": 0.4}


def test_a_reward_that_is_hacked() -> None:
    watcher = Watcher("ppo", apart=True, true_name="exact")
    found = watcher.held_out("at step 8", HACKED)
    assert set(found) == {"hacked"}
    assert "at step 8, on held-out prompts, the optimized reward has risen by 0.4" in found["hacked"]
    assert "the true metric (exact) has fallen by 0.2 (95% interval -0.3 to -0.1)" in found["hacked"]
    assert watcher.held_out("at step 9", HACKED) == {}, "said twice"


@pytest.mark.parametrize(
    "changes", [{"true_change_high": 0.01}, {"reward_change": -0.1}, {"true_change": 0.2, "true_change_high": 0.3}]
)
def test_what_is_not_hacked(changes: dict[str, float]) -> None:
    assert Watcher("ppo", apart=True).held_out("at step 8", HACKED | changes) == {}
    assert Watcher("ppo").held_out("at step 8", HACKED) == {}, "the metric is the reward"


def test_a_gain_in_the_reward_alone_is_told_at_the_end() -> None:
    figures = {"true_change_low": -0.1, "true_change_high": 0.1, "true_change": 0.0}
    sure = {"reward_change": 0.5, "reward_change_low": 0.4}
    found = Watcher("ppo", apart=True, true_name="exact").held_out("after training", figures | sure, last=True)
    assert set(found) == {"unearned"} and "-0.1 to 0.1" in found["unearned"]
    assert Watcher("ppo", apart=True).held_out("at step 5", figures | sure) == {}
    real = figures | sure | {"true_change_low": 0.05}
    assert Watcher("ppo", apart=True).held_out("after training", real, last=True) == {}
    both = HACKED | {"reward_change_low": 0.3}
    assert set(Watcher("ppo", apart=True).held_out("after training", both, last=True)) == {"hacked"}


def test_far_on_held_out_prompts_is_far_beyond_chance() -> None:
    assert Watcher("ppo").held_out("x", {"kl": 40.0, "kl_low": -5.0, "kl_token": 0.9}) == {}
    found = Watcher("ppo").held_out("x", {"kl": 40.0, "kl_low": 30.0, "kl_token": 0.4})
    assert set(found) == {"far"} and "40.0 nats an answer (0.40 a token)" in found["far"]


def test_memory_is_as_long_as_the_window() -> None:
    watcher = Watcher("ppo")
    run_through(watcher, line)
    assert len(watcher.rollouts) == WINDOW and watcher.first is not None and watcher.first["kl"] == 0
