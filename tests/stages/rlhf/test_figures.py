"""Figures of a rollout against plain numpy and plain counting."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.rollouts.rollout import Rollout
from alignkit.stages.rlhf.figures import facts, repeated, rollout_figures
from tests.stages.rlhf.rollouts import answer, rollout


@pytest.mark.parametrize("seed", range(5))
def test_figures_of_a_rollout(seed: int) -> None:
    one = rollout(prompts=5, samples=3, seed=seed, number=7)
    found = rollout_figures(one)
    ends = np.cumsum([len(a.ids) for a in one.answers])
    starts = np.r_[0, ends[:-1]]
    assert one.policy is not None and one.reference is not None and one.entropy is not None
    ratio = one.policy.double().numpy() - one.reference.double().numpy()
    kl = np.array([ratio[a:b].sum() for a, b in zip(starts, ends, strict=True)])
    rewards = np.array([a.reward for a in one.answers])
    lengths = ends - starts
    assert found["rollout"] == 7 and found["rollout/answers"] == 15
    assert found["rollout/reward"] == pytest.approx(rewards.mean())
    assert found["rollout/reward_deviation"] == pytest.approx(rewards.std())
    assert found["rollout/reward/json"] == pytest.approx(np.mean([a.parts["json"] for a in one.answers]))
    assert found["rollout/reward/length"] == pytest.approx(np.mean([a.parts["length"] for a in one.answers]))
    assert found["rollout/kl"] == pytest.approx(kl.mean(), rel=1e-5)
    assert found["rollout/kl_token"] == pytest.approx(ratio.mean(), rel=1e-5)
    assert found["rollout/entropy"] == pytest.approx(one.entropy.double().numpy().mean(), rel=1e-6)
    assert found["rollout/length"] == pytest.approx(lengths.mean())
    assert found["rollout/truncated"] == pytest.approx(np.mean([not a.finished for a in one.answers]))
    assert found["rollout/length_correlation"] == pytest.approx(np.corrcoef(rewards, lengths)[0, 1])
    groups = rewards.reshape(5, 3)
    assert found["rollout/level"] == pytest.approx(np.mean(groups.max(1) == groups.min(1)))
    different = [len({tuple(a.ids) for a in one.answers[at : at + 3]}) / 3 for at in range(0, 15, 3)]
    assert found["rollout/distinct"] == pytest.approx(np.mean(different))
    assert one.values is not None and one.returns is not None and one.advantages is not None
    v, r = one.values.double().numpy(), one.returns.double().numpy()
    assert found["rollout/explained_variance"] == pytest.approx(1 - np.var(r - v) / np.var(r), rel=1e-6)
    assert found["rollout/advantage_deviation"] == pytest.approx(one.advantages.double().numpy().std(), rel=1e-6)
    assert found["rollout/skipped"] == 0


def test_answers_that_take_no_part_explain_nothing() -> None:
    one = rollout(prompts=4, samples=2)
    assert one.values is not None and one.returns is not None and one.advantages is not None
    sizes = one.tokens.tolist()
    v, r, a = (
        torch.cat([x.split(sizes)[at] for at in (0, 3, 6)]).double().numpy()
        for x in (one.values, one.returns, one.advantages)
    )
    found = rollout_figures(one, [0, 3, 6])
    assert found["rollout/explained_variance"] == pytest.approx(1 - np.var(r - v) / np.var(r), rel=1e-6)
    assert found["rollout/advantage_deviation"] == pytest.approx(np.std(a), rel=1e-6)
    assert found["rollout/explained_variance"] != pytest.approx(rollout_figures(one)["rollout/explained_variance"])


def test_what_is_not_known_is_left_out() -> None:
    found = rollout_figures(rollout(prompts=4, samples=1, known=False))
    assert not {"rollout/kl", "rollout/entropy", "rollout/explained_variance", "rollout/level"} & found.keys()
    assert "rollout/reward" in found


def test_answers_without_a_reward_are_counted_and_take_no_part() -> None:
    made = [
        answer(0, 0, [3], 1.0, parts={"json": 1.0}),
        answer(0, 1, [3, 4], math.nan, parts={"json": math.nan}),
        answer(1, 0, [5], 0.0, parts={"json": 0.0}),
        answer(1, 1, [5], 0.5, parts={"json": 0.5}),
    ]
    found = rollout_figures(Rollout.of(0, made))
    assert found["rollout/reward"] == pytest.approx(0.5) and found["rollout/skipped"] == 0.25
    assert found["rollout/reward/json"] == pytest.approx(0.5)
    assert found["rollout/level"] == 0.5, "one known answer of two tells nothing apart"
    none = rollout_figures(Rollout.of(0, [replace(one, reward=math.nan, parts={"json": math.nan}) for one in made]))
    assert none["rollout/skipped"] == 1 and "rollout/reward" not in none and "rollout/reward/json" not in none


def test_a_prompt_that_comes_again_apart_from_its_answers_is_one_group() -> None:
    found = rollout_figures(Rollout.of(0, [answer(0, 0, [3], 1.0), answer(1, 0, [4], 1.0), answer(0, 1, [3], 0.0)]))
    assert found["rollout/level"] == 0 and found["rollout/distinct"] == 0.5


def test_repetition() -> None:
    assert repeated([1, 2, 3]) == 0 and repeated([]) == 0
    assert repeated([7] * 8) == pytest.approx(4 / 5)
    assert repeated([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 5))
def test_repetition_by_counting(ids: list[int], run: int) -> None:
    runs = [ids[at : at + run] for at in range(len(ids) - run + 1)]
    again = sum(one in runs[:at] for at, one in enumerate(runs))
    assert repeated(ids, run) == pytest.approx(again / len(runs) if runs else 0.0)


def test_a_step_and_a_look_in_a_few_words() -> None:
    step = {"loss": 0.3, "entropy": 9.9, "rollout/reward": 0.5, "rollout/kl": 1.25, "rollout/length": 20.4}
    assert facts(step) == ["reward 0.500", "KL 1.25", "length 20"]
    look = {"true_reward": 0.25, "reward": 0.5, "kl": 1.0, "length": 7.0}
    assert facts({**step, **look}) == ["true metric 0.250", "reward 0.500", "KL 1.00", "length 7"]
