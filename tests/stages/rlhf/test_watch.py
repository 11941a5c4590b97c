"""The callback that watches a policy: its looks, its rules, the best weights, and what it remembers after a resume."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alignkit.console import log
from alignkit.errors import NumericsError, RunError
from alignkit.rewards.judged import EachReward
from alignkit.rewards.mixture import Rewards
from alignkit.rewards.recipe import RewardSource
from alignkit.runs.directory import RunDirectory, open_run
from alignkit.stages.rlhf.recipe import RlhfOptions
from alignkit.stages.rlhf.recipe_watch import StopOptions
from alignkit.stages.rlhf.stops import Look
from alignkit.stages.rlhf.watch import PolicyWatch
from alignkit.training import checkpoints
from tests.evaluation.policy_scores import policy_scores, started
from tests.stages.rlhf.test_alarms import HACKED, line

STEPS = 40


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return open_run(tmp_path, "rlhf", "ab" * 32)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(log, "warn", found.append)
    return found


def options(**stop: Any) -> RlhfOptions:
    return RlhfOptions(
        rewards=[RewardSource(name="json")], true_reward=[RewardSource(name="exact")], stop=StopOptions(**stop)
    )


def look_of(right: dict[int, int], reward: dict[int, float] | None = None) -> Any:
    """An ``Examination.look`` by step: how many of 40 prompts are answered well, and the reward of all."""

    def look(model: Any, step: int) -> tuple[Look, dict[str, float]]:
        paid = (reward or {}).get(step, 0.5)
        true = tuple(float(n < right[step]) for n in range(40))
        return Look(step, true, (paid,) * 40), {"true_reward": right[step] / 40, "reward": paid, "kl": 1.0}

    return look


def follow(
    watch: PolicyWatch, run: RunDirectory, first: int, last: int, *, curve: Any = line, rollout: int = 2
) -> int | None:
    """The trainer's calls for some steps; a checkpoint where one is asked for. The step at which it was ended."""
    trainer = SimpleNamespace(best_checkpoint=None, meter=SimpleNamespace(paused=0.0), state=None)
    watch.trainer = trainer  # type: ignore[assignment]
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    state = SimpleNamespace(global_step=first - 1, max_steps=STEPS)
    trainer.state = state
    watch.on_train_begin(None, state, control, model="policy")
    for step in range(first, last + 1):
        state.global_step, control.should_save = step, False
        watch.on_step_end(None, state, control, model="policy")
        # As the trainer does: the step's line is written by an earlier callback.
        logs = {"loss": 0.1, **(curve(step / STEPS) if (step - 1) % rollout == 0 else {})}
        run.append_metrics({"step": step, **logs})
        watch.on_log(None, state, control, logs=logs, model="policy")
        if control.should_save:
            save(run, step)
        if control.should_training_stop:
            return step
    return None


def save(run: RunDirectory, step: int) -> None:
    staged = checkpoints.staging(run.checkpoints) / f"checkpoint-{step}"
    staged.mkdir()
    (staged / "weights").write_text(str(step))
    checkpoints.commit(staged, run.checkpoints)


def metrics(run: RunDirectory, key: str) -> list[Any]:
    return [found[key] for found in run.read_metrics() if key in found]


CURVE = {0: 10, 8: 20, 16: 30, 24: 28, 32: 8, 40: 8}
PAID = {0: 0.1, 8: 0.3, 16: 0.4, 24: 0.5, 32: 0.9, 40: 0.9}


def test_a_run_whose_reward_is_played_ends_with_its_best_weights(run: RunDirectory, heard: list[str]) -> None:
    watch = PolicyWatch(run, options(every=8, true_reward_drop=0.1))
    watch.watcher.apart, watch.watcher.true_name = True, "exact"
    watch.look = look_of(CURVE, PAID)
    assert follow(watch, run, 1, STEPS) == 32
    assert [checkpoints.step_of(one) for one in checkpoints.all_checkpoints(run.checkpoints)] == [16, 8]
    assert watch.best_checkpoint() == run.checkpoints / "checkpoint-16" == watch.trainer.best_checkpoint  # type: ignore[union-attr]
    assert watch.stopped_by() == "true_reward_drop"
    found = watch.findings()
    assert found["stopped_by"]["step"] == 32 and found["stopped_by"]["kept_step"] == 16
    assert "0.55 since step 16" in found["stopped_by"]["why"]
    assert [one["step"] for one in found["looks"]] == [0, 8, 16, 24, 32]
    assert found["looks"][2]["true_reward"] == 0.75
    assert len(heard) == 1 and heard[0].startswith("step 32: stopping, since the true metric has fallen")
    json.dumps(found, allow_nan=False)
    assert metrics(run, "look/kl") == [1.0] * 5 and metrics(run, "look/true_change")[0] == 0.25


def test_no_rule_no_end(run: RunDirectory, heard: list[str]) -> None:
    watch = PolicyWatch(run, options(every=8))
    watch.look = look_of(CURVE, PAID)
    assert follow(watch, run, 1, STEPS) is None
    assert watch.best_checkpoint() is None and watch.stopped_by() is None and "stopped_by" not in watch.findings()
    assert not checkpoints.all_checkpoints(run.checkpoints), "nobody will ask for the best"


def test_the_best_weights_may_be_asked_for(run: RunDirectory) -> None:
    watch = PolicyWatch(run, options(every=16, keep="best"))
    watch.look = look_of(CURVE)
    assert follow(watch, run, 1, STEPS) is None
    assert len(metrics(run, "look/kl")) == 4, "at steps 0, 16, 32, and at the last one"
    assert watch.best_checkpoint() == run.checkpoints / "checkpoint-16"
    assert watch.stopped_by() is None


def test_the_last_weights_need_no_checkpoint_where_they_are_the_best(run: RunDirectory) -> None:
    watch = PolicyWatch(run, options(every=20, keep="best"))
    watch.look = look_of({0: 1, 20: 5, 40: 9})
    follow(watch, run, 1, STEPS)
    (run.checkpoints / "checkpoint-40" / "weights").unlink()  # the trainer holds these weights
    assert watch.best_checkpoint() == run.checkpoints / "checkpoint-40"


@pytest.mark.parametrize(
    ("rule", "curve", "at"),
    [
        ({"kl": 2.0}, lambda p: line(p, kl=20 * p), 7),
        ({"entropy": 0.7}, lambda p: line(p, entropy=1 - 2 * p), 9),
    ],
)
def test_a_policy_that_goes_too_far_is_ended(run: RunDirectory, rule: dict[str, float], curve: Any, at: int) -> None:
    watch = PolicyWatch(run, options(every=4, **rule))
    watch.look = look_of({0: 10, 4: 20, 8: 15, 12: 16})
    assert follow(watch, run, 1, STEPS, curve=curve) == at
    assert watch.stopped_by() == next(iter(rule))
    assert watch.best_checkpoint() == run.checkpoints / "checkpoint-4"


def test_a_run_that_is_ended_before_the_first_look_is_looked_at_then(run: RunDirectory) -> None:
    watch = PolicyWatch(run, options(every=30, kl=2.0, window=1))
    watch.look = look_of({0: 10, 3: 12})
    assert follow(watch, run, 1, STEPS, curve=lambda p: line(p, kl=60 * p)) == 3
    why = "the KL to the reference is 4.5 nats an answer (the last rollout), above rlhf.stop.kl=2"
    assert watch.findings()["stopped_by"] == {"rule": "kl", "why": why, "step": 3, "kept_step": 3}
    assert watch.best_checkpoint() == run.checkpoints / "checkpoint-3"


def test_weights_that_are_all_worse_than_the_start_are_no_result(run: RunDirectory) -> None:
    watch = PolicyWatch(run, options(every=8, true_reward_drop=0.0))
    watch.look = look_of({0: 38, 8: 5}, {0: 0.1, 8: 0.8})
    assert follow(watch, run, 1, STEPS) == 8
    with pytest.raises(NumericsError, match="no weights worth keeping") as caught:
        watch.best_checkpoint()
    assert "worse than the start by the true metric: 0.825 lower" in str(caught.value)


def test_a_best_checkpoint_that_is_damaged_is_not_taken(run: RunDirectory) -> None:
    watch = PolicyWatch(run, options(every=8, true_reward_drop=0.1))
    watch.look = look_of(CURVE, PAID)
    follow(watch, run, 1, STEPS)
    (run.checkpoints / "checkpoint-16" / "weights").write_text("17")
    with pytest.raises(RunError, match="holds the best weights of the run, and weights is not what was written"):
        watch.best_checkpoint()


@pytest.mark.parametrize("cut", [3, 8, 13, 24, 30])
def test_a_run_that_was_cut_off_ends_where_it_would_have_ended(tmp_path: Path, cut: int) -> None:
    found = []
    for cuts in ([], [cut]):
        run = open_run(tmp_path, "rlhf", "cd" * 32, fresh=True)
        done = 0
        for until in [*cuts, STEPS]:
            watch = PolicyWatch(run, options(every=8, true_reward_drop=0.1))
            watch.look = look_of(CURVE, PAID)
            last = follow(watch, run, done + 1, until)
            done = until - 2 if until != STEPS else until  # the checkpoint was two steps old
            run.truncate_metrics(done if until != STEPS else last or until)
        found.append((watch.stopped_by(), watch.findings(), [one for one in run.read_metrics() if "look/kl" in one]))
    assert found[0] == found[1]


def test_a_run_that_was_cut_off_right_at_its_end_does_not_go_on(run: RunDirectory) -> None:
    watch = PolicyWatch(run, options(every=8, true_reward_drop=0.1))
    watch.look = look_of(CURVE, PAID)
    assert follow(watch, run, 1, STEPS) == 32
    again = PolicyWatch(run, options(every=8, true_reward_drop=0.1))
    again.look = look_of({33: 40})
    assert follow(again, run, 33, STEPS) == 33, "one step at most, and it is not looked at"
    assert again.best_checkpoint() == run.checkpoints / "checkpoint-16"
    assert again.findings() == watch.findings()


def test_warnings_are_said_once_over_resumes(run: RunDirectory, heard: list[str]) -> None:
    def curve(progress: float) -> dict[str, float]:
        return line(progress, truncated=progress)

    follow(PolicyWatch(run, options()), run, 1, 10, curve=curve)
    assert heard == []
    follow(PolicyWatch(run, options()), run, 11, 30, curve=curve)
    assert len(heard) == 1 and heard[0].startswith("answers stop ending: at step 23 (mean of 3 rollouts)")
    follow(PolicyWatch(run, options()), run, 31, STEPS, curve=curve)
    assert len(heard) == 1
    run.truncate_metrics(20)
    follow(PolicyWatch(run, options()), run, 21, STEPS, curve=curve)
    assert len(heard) == 2, "the crash took it"


def test_held_out_figures_are_told_at_their_step_and_at_the_end(run: RunDirectory, heard: list[str]) -> None:
    run.mark("evaluated_before", {"scores": started().as_dict()})
    watch = PolicyWatch(run, options())
    assert watch.started == started()
    watch.watcher.apart, watch.watcher.true_name = True, "exact"
    watch.note(HACKED)
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    watch.on_step_end(None, SimpleNamespace(global_step=5, max_steps=STEPS), control)  # type: ignore[arg-type]
    assert len(heard) == 1 and "at step 5, on held-out prompts" in heard[0]
    after = policy_scores(kl=60.0, kl_interval=(50.0, 70.0))
    told = watch.end(after)
    assert told == heard and told[1].startswith("the policy is far from its reference: after training")
    assert watch.end(after) == told, "asked again, the same warnings"


def test_what_it_is_told_of_the_rewards(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(log, "say", said.append)
    one, two = EachReward("json", lambda row: 1.0), EachReward("json", lambda row: 0.0)
    examination: Any = SimpleNamespace(
        rewards=Rewards([(one, 1.0), (two, -0.5)]), true=None, true_name="json+json#2", overlap=3, look=None
    )
    watch = PolicyWatch(run, options(every=4, keep="best"))
    watch.stand(examination)
    assert watch.watcher.weights == {"json": 1.0, "json#2": -0.5} and not watch.watcher.apart
    assert len(said) == 1 and said[0].startswith("3 held-out prompts are both looked at")
    PolicyWatch(run, options(every=4)).stand(examination)
    PolicyWatch(run, options()).stand(examination)
    assert len(said) == 1
