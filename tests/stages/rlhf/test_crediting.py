"""What is learned of a rollout, against plain numpy; which answers, in which order, from which prompts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignkit.rollouts.rollout import Rolled, Rollout
from alignkit.stages.rlhf.crediting import Crediting
from alignkit.stages.rlhf.minibatches import mini_batches
from alignkit.stages.rlhf.prompts import PromptStream
from alignkit.stages.rlhf.recipe import Kl, RlhfOptions
from alignkit.stages.rlhf.recipe_algorithms import settle

LENGTHS = [3, 1, 4, 2, 5, 2, 1, 3]
SCORES = [1.0, -2.0, 0.5, 3.0, 2.0, 2.0, 2.0, 2.0]


def rollout(scores: list[float] = SCORES, unfinished: tuple[int, ...] = (), number: int = 0) -> Rollout:
    """Two prompts of four answers."""
    answers = [
        Rolled(at // 4, at % 4, "", [1], list(range(length)), "", at not in unfinished, reward=score)
        for at, (length, score) in enumerate(zip(LENGTHS, scores, strict=True))
    ]
    found = Rollout.of(number, answers)
    random = torch.Generator().manual_seed(3)
    n = sum(LENGTHS)
    found.policy = -torch.rand(n, generator=random) * 3
    found.reference = found.policy + torch.randn(n, generator=random) * 0.3
    found.values = torch.randn(n, generator=random)
    return found


def credited(one: Rollout, **options: Any) -> tuple[Crediting, list[bool]]:
    made = RlhfOptions(rewards=[], samples=4, prompts=2, **options)
    crediting = Crediting(made, settle(made))
    return crediting, crediting.credit(one).tolist()


def per_answer(vector: torch.Tensor | None) -> list[np.ndarray[Any, Any]]:
    assert vector is not None
    return np.split(vector.double().numpy(), np.cumsum(LENGTHS)[:-1])


def differences(one: Rollout) -> list[np.ndarray[Any, Any]]:
    assert one.policy is not None and one.reference is not None
    return per_answer(one.policy - one.reference)


def test_rloo_pays_an_answer_less_its_kl() -> None:
    one = rollout()
    credited(one, algorithm="rloo", kl=Kl(coefficient=0.2))
    paid = np.array(SCORES) - 0.2 * np.array([part.sum() for part in differences(one)])
    expected = [paid[at] - np.delete(paid[at // 4 * 4 : at // 4 * 4 + 4], at % 4).mean() for at in range(8)]
    for found, worth in zip(per_answer(one.advantages), expected, strict=True):
        np.testing.assert_allclose(found, worth, atol=1e-5)


@pytest.mark.parametrize("advantage", ["group", "group-std", "group-batch"])
def test_grpo_compares_within_a_prompt(advantage: Any) -> None:
    one = rollout()
    credited(one, algorithm="grpo", advantage=advantage)
    scores = np.array(SCORES).reshape(2, 4)
    centred = scores - scores.mean(1, keepdims=True)
    deviation = {
        "group": 1.0,
        "group-std": scores.std(1, ddof=1, keepdims=True) + 1e-4,
        "group-batch": scores.std(ddof=1) + 1e-4,
    }[advantage]
    for found, worth in zip(per_answer(one.advantages), (centred / deviation).ravel(), strict=True):
        np.testing.assert_allclose(found, worth, atol=1e-5)


def test_ppo_is_gae_of_token_rewards() -> None:
    one = rollout()
    credited(one, algorithm="ppo", whiten_advantages=False, gamma=0.9, gae_lambda=0.8, kl=Kl(coefficient=0.2))
    for at, (kl, values) in enumerate(zip(differences(one), per_answer(one.values), strict=True)):
        rewards = -0.2 * kl
        rewards[-1] += SCORES[at]
        expected, after = np.zeros(len(kl)), 0.0
        for step in reversed(range(len(kl))):
            following = values[step + 1] if step + 1 < len(kl) else 0.0
            after = rewards[step] + 0.9 * following - values[step] + 0.9 * 0.8 * after
            expected[step] = after
        np.testing.assert_allclose(per_answer(one.advantages)[at], expected, atol=1e-5)
        np.testing.assert_allclose(per_answer(one.returns)[at], expected + values, atol=1e-5)


def test_reinforce_plus_plus_is_normalised_over_the_rollout() -> None:
    one = rollout()
    credited(one, algorithm="reinforce++", kl=Kl(coefficient=0.2))
    earned = []
    for score, kl in zip(SCORES, differences(one), strict=True):
        rewards = -0.2 * kl
        rewards[-1] += score
        earned.append(rewards[::-1].cumsum()[::-1])
    together = np.concatenate(earned)
    assert one.advantages is not None
    np.testing.assert_allclose(one.advantages.numpy(), (together - together.mean()) / together.std(), atol=1e-4)


def test_its_baseline_is_the_mean_of_the_prompt() -> None:
    one = rollout()
    credited(one, algorithm="reinforce++", advantage="group-batch", whiten_advantages=False, kl=Kl(where="loss"))
    scores = np.array(SCORES).reshape(2, 4)
    for found, worth in zip(per_answer(one.advantages), (scores - scores.mean(1, keepdims=True)).ravel(), strict=True):
        np.testing.assert_allclose(found, worth, atol=1e-5)


def test_rewards_are_scaled_then_clipped_then_taken_off() -> None:
    """Over the run so far: the second rollout is scaled by both."""
    made = RlhfOptions(
        rewards=[],
        algorithm="grpo",
        samples=4,
        advantage="group",
        reward_scale="running",
        reward_clip=0.8,
        missing_eos_penalty=0.5,
        overlong_buffer=2,
        max_new_tokens=5,
    )
    crediting = Crediting(made, settle(made))
    crediting.credit(rollout())
    second = [4.0, 0.0, 1.0, 1.0, -1.0, 3.0, 2.0, 0.0]
    one = rollout(second, unfinished=(1, 4))
    crediting.credit(one)
    everything = np.array(SCORES + second)
    paid = np.clip(np.array(second) / everything.std(), -0.8, 0.8)
    paid[[1, 4]] -= 0.5
    paid += np.clip((3 - np.array(LENGTHS)) / 2, -1, 0)
    expected = (paid.reshape(2, 4) - paid.reshape(2, 4).mean(1, keepdims=True)).ravel()
    for found, worth in zip(per_answer(one.advantages), expected, strict=True):
        np.testing.assert_allclose(found, worth, atol=1e-5)


def test_what_takes_part() -> None:
    nan = math.nan
    _, counted = credited(rollout([1.0, nan, 2.0, 0.0, 5.0, 5.0, 5.0, 5.0]), algorithm="grpo")
    assert counted == [True, False] + [True] * 6
    _, counted = credited(rollout(unfinished=(0, 5)), algorithm="ppo", mask_truncated=True)
    assert counted == [False] + [True] * 4 + [False] + [True] * 2
    _, counted = credited(rollout(), algorithm="grpo", zero_variance="drop")  # the second prompt's are all worth 2
    assert counted == [True] * 4 + [False] * 4
    _, counted = credited(rollout([1.0] * 8), algorithm="grpo", zero_variance="drop")
    assert counted == [False] * 8  # also where nothing better is there
    one = rollout(unfinished=tuple(range(8)))
    _, counted = credited(one, algorithm="ppo", mask_truncated=True)
    assert counted == [False] * 8
    assert one.advantages is not None and not one.advantages.any()


def test_answers_are_worth_the_same_after_all_that_is_taken_off() -> None:
    """A penalty tells apart what the rewards did not; a bound takes away what they did."""
    same = rollout([2.0] * 8, unfinished=(1,))
    crediting, counted = credited(same, algorithm="grpo", zero_variance="drop", missing_eos_penalty=1.0)
    assert counted == [True] * 4 + [False] * 4 and crediting.level(same).tolist() == [False, True]
    other = rollout([2.0, 3.0, 2.0, 4.0, 0.0, 3.0, 2.0, 4.0])
    crediting, counted = credited(other, algorithm="grpo", zero_variance="drop", reward_clip=1.0)
    assert counted == [False] * 4 + [True] * 4 and crediting.level(other).tolist() == [True, False]


def test_asking_what_is_level_changes_nothing() -> None:
    crediting, _ = credited(rollout(), algorithm="grpo", reward_scale="running")
    before = crediting.state_dict()
    crediting.level(rollout([1.0, 5.0, 2.0, 9.0, 0.0, 0.0, 0.0, 0.0]))
    assert crediting.state_dict() == before


def test_a_rollout_keeps_its_coefficient_while_the_controller_moves_on() -> None:
    """That of the first is the recipe's; the second's is what the first one's KL made of it."""
    crediting, _ = credited(rollout(), algorithm="grpo", kl=Kl(coefficient=0.2, control="adaptive", target=0.01))
    assert crediting.coefficient == 0.2 != crediting.controller.coefficient
    moved = crediting.controller.coefficient
    crediting.credit(rollout())
    assert crediting.coefficient == moved


def test_an_answer_without_a_reward_touches_nobody() -> None:
    """The others' advantages are those that they would have without it."""
    with_it = rollout([1.0, math.nan, 2.0, 0.0, 5.0, 1.0, 5.0, 4.0])
    credited(with_it, algorithm="ppo")
    assert with_it.advantages is not None and bool(torch.isfinite(with_it.advantages).all())
    assert not per_answer(with_it.advantages)[1].any()
    one = rollout([1.0, math.nan, 2.0, 0.0, 5.0, 1.0, 5.0, 4.0])
    credited(one, algorithm="rloo", kl=Kl(where="off"))
    for found, worth in zip(per_answer(one.advantages)[:4], [0.0, 0.0, 1.5, -1.5], strict=True):
        np.testing.assert_allclose(found, worth, atol=1e-6)


def test_what_is_remembered_comes_back_to_the_bit() -> None:
    import json

    options: dict[str, Any] = {"algorithm": "ppo", "reward_scale": "running", "kl": Kl(control="adaptive", target=0.1)}
    before, _ = credited(rollout(), **options)
    made = RlhfOptions(rewards=[], samples=4, prompts=2, **options)
    after = Crediting(made, settle(made))
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    one, other = rollout(SCORES[::-1]), rollout(SCORES[::-1])
    before.credit(one)
    after.credit(other)
    assert one.advantages is not None and other.advantages is not None
    assert torch.equal(one.advantages, other.advantages)
    assert before.controller.coefficient == after.controller.coefficient != 0.05
    assert before.state_dict() == after.state_dict()


# --- mini-batches ----------------------------------------------------------------------------------------------------


@given(
    prompts=st.integers(1, 12),
    samples=st.integers(1, 5),
    parts=st.integers(1, 6),
    left_out=st.sets(st.integers(0, 59)),
    epoch=st.integers(0, 3),
)
def test_every_answer_is_learned_from_once_a_pass(
    prompts: int, samples: int, parts: int, left_out: set[int], epoch: int
) -> None:
    answers = prompts * samples * parts
    counted = [place for place in range(answers) if place not in left_out]
    size = answers // parts
    found = mini_batches(counted, answers=answers, samples=samples, size=size, seed=1, rollout=2, epoch=epoch)
    assert len(found) == parts
    assert sorted(place for part in found for place in part) == counted
    assert all(part == sorted(part) for part in found)
    if not left_out:
        assert all(len(part) == size for part in found)
    if size % samples == 0:  # whole prompts
        assert len({place // samples for part in found for place in part}) == sum(
            len({place // samples for place in part}) for part in found
        )


def test_passes_go_in_orders_of_their_own() -> None:
    def order(**changes: int) -> list[list[int]]:
        return mini_batches(
            range(32), answers=32, samples=4, size=8, **{"seed": 1, "rollout": 2, "epoch": 0, **changes}
        )

    assert order() == order()
    assert all(order() != order(**changes) for changes in ({"seed": 2}, {"rollout": 3}, {"epoch": 1}))


def test_an_empty_mini_batch_is_a_step_for_the_scaler_of_fp16_too() -> None:
    from types import SimpleNamespace

    from alignkit.stages.rlhf.making import Hand
    from alignkit.stages.rlhf.trainer import MiniBatch, RolloutTrainer

    model = torch.nn.Linear(2, 1)
    before = model.weight.detach().clone()
    scaler, optimizer = torch.amp.GradScaler("cpu"), torch.optim.SGD(model.parameters(), lr=1.0)
    scaler.scale(torch.zeros(()))
    accelerator = SimpleNamespace(scaler=scaler)
    trainer: Any = SimpleNamespace(
        args=SimpleNamespace(device="cpu"), accelerator=accelerator, logged={}, parts=lambda mini: [], _ahead=None
    )
    loss = RolloutTrainer.training_step(trainer, model, {"mini": MiniBatch(Hand(rollout(), []), [], fresh=True)})
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    assert float(loss) == 0.0 and torch.equal(model.weight, before)


# --- prompts ---------------------------------------------------------------------------------------------------------


@given(prompts=st.integers(1, 20), count=st.integers(1, 20), rollouts=st.integers(1, 30))
def test_prompts_come_evenly_and_never_twice_in_a_rollout(prompts: int, count: int, rollouts: int) -> None:
    stream = PromptStream(prompts, seed=5)
    seen = [0] * prompts
    for _ in range(rollouts):
        taken = stream.take(min(count, prompts))
        assert len(set(taken)) == len(taken) == min(count, prompts)
        for number in taken:
            seen[number] += 1
    assert max(seen) - min(seen) <= 2


def test_the_stream_goes_on_where_it_stood() -> None:
    import json

    whole, first = PromptStream(7, seed=5), PromptStream(7, seed=5)
    expected = [whole.take(3, without=[2]) for _ in range(12)]
    found = [first.take(3, without=[2]) for _ in range(5)]
    second = PromptStream(7, seed=5)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert found + [second.take(3, without=[2]) for _ in range(7)] == expected
    assert PromptStream(3, seed=1).take(5, without=[0]) in ([1, 2], [2, 1])  # there are no others
