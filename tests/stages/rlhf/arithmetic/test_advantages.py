"""Advantages of tokens and of answers against the papers' formulas, and what must hold of any of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignkit.stages.rlhf.arithmetic import ragged
from alignkit.stages.rlhf.arithmetic.advantages import actor_critic, gae, reinforce_plus_plus, whiten
from alignkit.stages.rlhf.arithmetic.groups import best_and_worst, level, relative, rloo
from tests.stages.rlhf.arithmetic import formulas
from tests.stages.rlhf.arithmetic.making import LENGTHS, Made, lengths, seeds, tensor

unit = st.floats(0, 1)


@given(lengths, seeds, unit, unit)
def test_gae_is_the_papers_double_sum(many: list[int], seed: int, gamma: float, lam: float) -> None:
    made = Made(many, seed)
    rewards = made.rng.normal(0, 1, sum(many))
    found = gae(tensor(rewards), tensor(made.values), made.tokens, gamma=gamma, lam=lam)
    advantages, returns = formulas.gae(rewards, made.values, many, gamma, lam)
    np.testing.assert_allclose(found.advantages, advantages, atol=1e-10)
    np.testing.assert_allclose(found.returns, returns, atol=1e-10)


@given(lengths, seeds)
def test_the_ends_of_lambda_are_one_step_and_whole_returns(many: list[int], seed: int) -> None:
    made = Made(many, seed)
    rewards, values = tensor(made.rng.normal(0, 1, sum(many))), tensor(made.values)
    whole = gae(rewards, values, made.tokens, gamma=0.9, lam=1.0)
    np.testing.assert_allclose(whole.returns, formulas.to_go(rewards, many, 0.9), atol=1e-10)
    step = gae(rewards, values, made.tokens, gamma=0.9, lam=0.0)
    at = ragged.last(made.tokens)
    np.testing.assert_allclose(step.returns[at], rewards[at], atol=1e-10)


@given(lengths, seeds)
def test_no_answer_hears_of_another(many: list[int], seed: int) -> None:
    made = Made(many, seed)
    rewards, values = tensor(made.rng.normal(0, 1, sum(many))), tensor(made.values)
    together = gae(rewards, values, made.tokens, gamma=0.97, lam=0.9).advantages.split(many)
    for mine, r, v in zip(together, rewards.split(many), values.split(many), strict=True):
        alone = gae(r, v, torch.tensor([len(r)]), gamma=0.97, lam=0.9).advantages
        assert torch.equal(mine, alone)


def test_float32_sums_are_as_good_as_float64() -> None:
    made = Made([900, 1200])
    rewards = made.rng.normal(0, 1, 2100).astype(np.float32)
    values = made.values.astype(np.float32)
    found = gae(torch.tensor(rewards), torch.tensor(values), made.tokens, gamma=1.0, lam=0.999)
    assert found.advantages.dtype == found.returns.dtype == torch.float32
    r, v = rewards.astype(np.float64), values.astype(np.float64)
    exact = gae(tensor(r), tensor(v), made.tokens, gamma=1.0, lam=0.999)
    np.testing.assert_allclose(found.advantages, exact.advantages, rtol=1e-6, atol=1e-6)


@given(lengths, seeds, st.booleans())
def test_whitening(many: list[int], seed: int, shift: bool) -> None:
    made = Made(many, seed)
    x = made.advantages
    np.testing.assert_allclose(whiten(tensor(x), shift_mean=shift), formulas.whiten(x, shift), atol=1e-9)


@given(seeds, st.floats(0.1, 50), st.floats(-100, 100))
def test_whitening_sees_neither_scale_nor_shift(seed: int, scale: float, shift: float) -> None:
    x = tensor(Made(LENGTHS, seed).advantages)
    once, other = whiten(x), whiten(scale * x + shift)
    np.testing.assert_allclose(once, other, atol=1e-5)
    assert abs(float(once.mean())) < 1e-9 and float(once.var(correction=0)) == pytest.approx(1, abs=1e-6)


def test_whitening_of_what_does_not_vary_is_nothing() -> None:
    for many in (1, 5):
        assert torch.equal(whiten(torch.full((many,), 0.3)), torch.zeros(many))
        np.testing.assert_allclose(whiten(torch.full((many,), 0.3), shift_mean=False), [0.3] * many, rtol=1e-6)
    assert torch.equal(whiten(torch.ones(3), counted=torch.zeros(3, dtype=torch.bool)), torch.zeros(3))


@pytest.mark.parametrize("whiten_rewards", [False, True])
@pytest.mark.parametrize("whiten_advantages", [False, True])
def test_actor_critic_is_gae_between_two_whitenings(whiten_rewards: bool, whiten_advantages: bool) -> None:
    made = Made(LENGTHS)
    rewards = made.rng.normal(0.5, 1, sum(LENGTHS))
    asked = {"whiten_rewards": whiten_rewards, "whiten_advantages": whiten_advantages}
    found = actor_critic(tensor(rewards), tensor(made.values), made.tokens, gamma=0.98, lam=0.9, **asked)
    before = formulas.whiten(rewards, shift_mean=False) if whiten_rewards else rewards
    advantages, returns = formulas.gae(before, made.values, LENGTHS, 0.98, 0.9)
    np.testing.assert_allclose(found.returns, returns, atol=1e-9)
    expected = formulas.whiten(advantages) if whiten_advantages else advantages
    np.testing.assert_allclose(found.advantages, expected, atol=1e-9)


@pytest.mark.parametrize("whitened", [False, True])
def test_answers_that_do_not_count_leave_no_trace(whitened: bool) -> None:
    """A reward of NaN: the others come out as if that answer had not been drawn, and nothing is NaN."""
    made = Made(LENGTHS)
    rewards, values = tensor(made.rng.normal(0, 1, sum(LENGTHS))), tensor(made.values)
    counted = torch.tensor([True, False, True, True, False, True])
    tokens = ragged.spread(counted, made.tokens)
    spoiled = rewards.where(tokens, torch.nan)
    asked = {"gamma": 1.0, "lam": 0.95, "whiten_rewards": whitened, "whiten_advantages": whitened}
    found = actor_critic(spoiled, values, made.tokens, counted=counted, **asked)
    without = actor_critic(rewards[tokens], values[tokens], made.tokens[counted], **asked)
    for mine, other in zip(found, without, strict=True):
        np.testing.assert_allclose(mine[tokens], other, atol=1e-12)
        assert torch.equal(mine[~tokens], torch.zeros(int((~tokens).sum()), dtype=torch.float64))
    plus = reinforce_plus_plus(spoiled, made.tokens, whiten_advantages=whitened, counted=counted)
    other = reinforce_plus_plus(rewards[tokens], made.tokens[counted], whiten_advantages=whitened)
    np.testing.assert_allclose(plus[tokens], other, atol=1e-12)
    assert not plus[~tokens].any()


@given(lengths, seeds, unit)
def test_reinforce_plus_plus_is_the_reward_to_go_over_the_whole_batch(many: list[int], seed: int, gamma: float) -> None:
    made = Made(many, seed)
    rewards = made.rng.normal(0, 1, sum(many))
    earned = formulas.to_go(rewards, many, gamma)
    plain = reinforce_plus_plus(tensor(rewards), made.tokens, gamma=gamma, whiten_advantages=False)
    np.testing.assert_allclose(plain, earned, atol=1e-10)
    found = reinforce_plus_plus(tensor(rewards), made.tokens, gamma=gamma)
    np.testing.assert_allclose(found, formulas.whiten(earned), atol=1e-7)


scored = st.integers(1, 5).flatmap(
    lambda samples: st.tuples(
        st.just(samples),
        st.integers(1, 4).flatmap(
            lambda groups: st.lists(
                st.one_of(st.floats(-5, 5).map(lambda x: round(x, 3)), st.just(float("nan"))),
                min_size=samples * groups,
                max_size=samples * groups,
            )
        ),
    )
)


@given(scored)
def test_advantages_of_groups(case: tuple[int, list[float]]) -> None:
    samples, scores = case
    found = rloo(tensor(scores), samples)
    np.testing.assert_allclose(found, formulas.rloo(scores, samples), atol=1e-9)
    for scale in ("group", "batch", "none"):
        found = relative(tensor(scores), samples, scale=scale)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, formulas.relative(scores, samples, scale), atol=1e-7)
        assert found.isfinite().all()


@given(seeds, st.integers(2, 6), st.floats(-50, 50))
def test_a_group_s_advantages_sum_to_nothing_and_see_no_shift(seed: int, samples: int, shift: float) -> None:
    scores = tensor(np.random.default_rng(seed).normal(0, 1, samples * 3))
    for how in (rloo, relative):
        found = how(scores, samples)
        np.testing.assert_allclose(found.view(3, samples).sum(1), 0, atol=1e-9)
        np.testing.assert_allclose(how(scores + shift, samples), found, atol=1e-9)
    # Leaving oneself out is the same as a larger step from the group's mean (Kool et al. 2019).
    centred = relative(scores, samples, scale="none")
    np.testing.assert_allclose(rloo(scores, samples), centred * samples / (samples - 1), atol=1e-9)


def test_groups_that_teach_nothing_and_the_pairs_of_the_others() -> None:
    nan = float("nan")
    scores = torch.tensor([1.0, 1, 1, 0, 2, 2, nan, 3, nan, nan, 5, 4, nan, nan, nan])
    assert level(scores, 3).tolist() == [True, False, True, False, True]
    assert best_and_worst(scores, 3).tolist() == [[4, 3], [10, 11]]
    assert best_and_worst(torch.ones(4), 2).shape == (0, 2)
    # Infinities would be unknown scores in disguise: a group of them is as level as any other.
    assert level(torch.tensor([nan, nan]), 2).tolist() == [True]


def test_answers_must_come_in_whole_groups() -> None:
    for samples in (0, 2, 5):
        with pytest.raises(ValueError, match="groups"):
            rloo(torch.zeros(7), samples)


@given(lengths, seeds)
def test_ragged_and_padded_are_two_views(many: list[int], seed: int) -> None:
    made = Made(many, seed)
    x, sizes = tensor(made.values).requires_grad_(), made.tokens
    rows = ragged.padded(x, sizes)
    assert rows.shape == (len(many), max(many)) and torch.equal(ragged.mask(sizes), ragged.padded(x * 0 + 1, sizes) > 0)
    assert torch.equal(ragged.flat(rows, sizes), x)
    wide = torch.nn.functional.pad(rows, (0, 3))
    assert torch.equal(ragged.flat(wide, sizes), x) and ragged.mask(sizes, max(many) + 3).sum() == sum(many)
    pieces = formulas.split(made.values, many)
    np.testing.assert_allclose(ragged.sums(x, sizes).detach(), [p.sum() for p in pieces], atol=1e-12)
    np.testing.assert_allclose(x.detach()[ragged.last(sizes)], [p[-1] for p in pieces])
    (ragged.sums(x, sizes) * torch.arange(len(many))).sum().backward()
    assert torch.equal(x.grad, ragged.spread(torch.arange(len(many)).double(), sizes))


def test_lengths_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="7 values of answers that have 6 tokens"):
        ragged.padded(torch.zeros(7), torch.tensor([2, 4]))
    with pytest.raises(ValueError, match="at least one token"):
        gae(torch.zeros(4), torch.zeros(4), torch.tensor([4, 0]), gamma=1.0, lam=1.0)
