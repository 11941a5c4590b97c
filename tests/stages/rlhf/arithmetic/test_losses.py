"""The losses against the papers' formulas: values, gradients, passes of a mini-batch, and the very first step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given

from alignkit.stages.dpo.recipe import DpoOptions
from alignkit.stages.rlhf.arithmetic.policy import ratios
from alignkit.stages.rlhf.arithmetic.value import explained_variance, value_clipped, value_loss
from alignkit.stages.rlhf.losses import Scored, Terms, online_dpo, ppo, reinforce_plus_plus
from tests.stages.rlhf.arithmetic import formulas
from tests.stages.rlhf.arithmetic.making import LENGTHS, Made, lengths, numeric, seeds, tensor

OF_TOKENS = ("new", "old", "advantages", "reference", "entropy", "values", "old_values", "returns")


def scored(made: Made, **changes: Any) -> Scored:
    given = {name: tensor(getattr(made, name)) for name in OF_TOKENS}
    return Scored(**{**given, **changes})


def expected(made: Made, terms: Terms, new: np.ndarray, entropy: np.ndarray, values: np.ndarray) -> float:
    """The whole of PPO's objective, eq. 9 of Schulman et al. 2017 with its signs turned, and the KL beside it."""
    high = terms.clip if terms.clip_high is None else terms.clip_high
    loss = formulas.surrogate(new, made.old, made.advantages, terms.clip, high)
    loss = loss - terms.entropy_coefficient * entropy
    loss = loss + terms.value_coefficient * formulas.value_loss(values, made.returns, made.old_values, terms.value_clip)
    if terms.kl is not None:
        kl = getattr(formulas, terms.kl)(new, made.reference)
        loss = loss + terms.kl_coefficient * (kl * np.exp(new - made.old) if terms.kl == "k1" else kl)
    return float(loss.mean())


TERMS = [
    Terms(),
    Terms(clip=0.1, clip_high=0.28, value_clip=None, value_coefficient=0.5),
    Terms(kl="k1", kl_coefficient=0.3),
    Terms(kl="k2", kl_coefficient=0.3, entropy_coefficient=0.02),
    Terms(kl="k3", kl_coefficient=0.3, value_clip=0.05, value_coefficient=1.0, entropy_coefficient=0.5),
]


@pytest.mark.parametrize("terms", TERMS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_values_and_gradients_of_ppo_are_the_papers(terms: Terms, seed: int) -> None:
    made = Made(LENGTHS, seed)
    new, entropy, values = (tensor(x).requires_grad_() for x in (made.new, made.entropy, made.values))
    loss, figures = ppo(scored(made, new=new, entropy=entropy, values=values), terms, sum(LENGTHS))
    assert loss.item() == pytest.approx(expected(made, terms, made.new, made.entropy, made.values), abs=1e-10)
    loss.backward()
    for leaf, plain, at in ((new, made.new, 0), (entropy, made.entropy, 1), (values, made.values, 2)):
        given = [made.new, made.entropy, made.values]

        def function(x: np.ndarray, at: int = at, given: list[np.ndarray] = given) -> float:
            return expected(made, terms, *[x if i == at else one for i, one in enumerate(given)])

        found = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        np.testing.assert_allclose(found, numeric(function, plain), atol=1e-7)
    assert all(not one.requires_grad for one in figures.values())


def test_reinforce_plus_plus_is_the_same_without_values() -> None:
    made = Made(LENGTHS)
    for terms in TERMS:
        loss, figures = reinforce_plus_plus(scored(made), terms, sum(LENGTHS))
        without = replace(terms, value_coefficient=0.0)
        assert loss.item() == pytest.approx(expected(made, without, made.new, made.entropy, made.values), abs=1e-10)
        assert "value_loss" not in figures


def test_figures_are_means_over_tokens() -> None:
    made = Made(LENGTHS, spread=0.5)
    terms = Terms(clip=0.1, clip_high=0.2, kl="k3", kl_coefficient=0.1)
    _, figures = ppo(scored(made), terms, sum(LENGTHS))
    ratio, a = np.exp(made.new - made.old), made.advantages
    held = made.old_values + np.clip(made.values - made.old_values, -0.2, 0.2)
    wanted = {
        "policy_loss": formulas.surrogate(made.new, made.old, a, 0.1, 0.2).mean(),
        "clip_low": ((ratio < 0.9) & (a < 0)).mean(),
        "clip_high": ((ratio > 1.2) & (a > 0)).mean(),
        "moved": (ratio - 1 - np.log(ratio)).mean(),
        "shift": np.abs(ratio - 1).mean(),
        "kl_loss": formulas.k3(made.new, made.reference).mean(),
        "entropy": made.entropy.mean(),
        "value_loss": formulas.value_loss(made.values, made.returns, made.old_values, 0.2).mean(),
        "value_clip": ((held - made.returns) ** 2 > (made.values - made.returns) ** 2).mean(),
    }
    assert set(figures) == set(wanted)
    for name, value in wanted.items():
        assert figures[name].item() == pytest.approx(value, abs=1e-8), name
    assert 0 < figures["clip_low"] < 1 and 0 < figures["clip_high"] < 1 and 0 < figures["value_clip"] < 1


@given(lengths, seeds)
def test_passes_of_a_mini_batch_add_up(many: list[int], seed: int) -> None:
    whole, terms, tokens = scored(Made(many, seed)), TERMS[4], sum(many)
    loss, figures = ppo(whole, terms, tokens)
    pieces = {name: getattr(whole, name).split(many) for name in OF_TOKENS}
    found = [ppo(Scored(**{name: one[at] for name, one in pieces.items()}), terms, tokens) for at in range(len(many))]
    assert sum(one.item() for one, _ in found) == pytest.approx(loss.item(), abs=1e-10)
    for name, value in figures.items():
        # Counts of tokens come as float32.
        assert sum(more[name].item() for _, more in found) == pytest.approx(value.item(), abs=1e-6)


def test_a_pass_of_nothing_is_nothing() -> None:
    empty = torch.zeros(0)
    new, values = empty.clone().requires_grad_(), empty.clone().requires_grad_()
    nobody = Scored(new=new, old=empty, advantages=empty, values=values, old_values=empty, returns=empty)
    loss, _ = ppo(nobody, Terms(), 0)
    assert loss.item() == 0 and loss.requires_grad


def test_the_first_step_s_ratio_is_exactly_one() -> None:
    made = Made(LENGTHS)
    same = torch.tensor(made.old, dtype=torch.float32)
    assert torch.equal(ratios(same.clone().requires_grad_(), same), torch.ones_like(same))
    first = scored(made, new=tensor(made.old).requires_grad_())
    loss, figures = reinforce_plus_plus(first, Terms(), sum(LENGTHS))
    assert figures["shift"] == 0 and figures["moved"] == 0 and figures["clip_low"] == figures["clip_high"] == 0
    loss.backward()  # the policy gradient itself: -A·∇log π
    np.testing.assert_allclose(first.new.grad, -made.advantages / sum(LENGTHS), atol=1e-12)


def test_clipped_tokens_have_no_gradient_and_the_others_do() -> None:
    ratio = torch.tensor([0.5, 0.5, 1.5, 1.5, 1.25, 0.85])
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    new = ratio.log().requires_grad_()
    zeros = torch.zeros(6)
    pass_ = Scored(new=new, old=zeros, advantages=advantages)
    loss, figures = reinforce_plus_plus(pass_, Terms(clip=0.2, clip_high=0.3), 6)
    loss.backward()
    assert new.grad is not None and (new.grad != 0).tolist() == [True, False, False, True, True, True]
    assert figures["clip_low"].item() == pytest.approx(1 / 6) and figures["clip_high"].item() == pytest.approx(1 / 6)


def test_a_ratio_out_of_all_bounds_gives_a_finite_loss() -> None:
    new = torch.tensor([0.0, -1.0], requires_grad=True)
    far = Scored(new=new, old=torch.tensor([-200.0, -1.0]), advantages=torch.tensor([-1.0, 1.0]))
    loss, figures = reinforce_plus_plus(far, Terms(), 2)
    loss.backward()
    assert loss.isfinite() and new.grad is not None and new.grad.isfinite().all() and new.grad[0] > 0
    assert all(one.isfinite() for one in figures.values())


@given(lengths, seeds)
def test_explained_variance(many: list[int], seed: int) -> None:
    made = Made([*many, 3], seed)
    v, r = tensor(made.values), tensor(made.returns)
    assert explained_variance(v, r) == pytest.approx(formulas.explained(made.values, made.returns), rel=1e-9)
    assert explained_variance(r + 3, r) == pytest.approx(1) and explained_variance(r * 0, r) == pytest.approx(0)


def test_nothing_explains_returns_that_do_not_vary() -> None:
    assert explained_variance(torch.randn(5), torch.full((5,), 0.1)) is None
    assert explained_variance(torch.zeros(0), torch.zeros(0)) is None


def test_a_value_beyond_its_clip_waits() -> None:
    """Moved by more than the clip towards the return: no gradient. Away from it: the full one, so that it can turn."""
    values = torch.tensor([0.5, -0.5, 0.1], requires_grad=True)
    returns, old = torch.tensor([1.0, 1.0, 1.0]), torch.zeros(3)
    value_loss(values, returns, old, 0.2).sum().backward()
    np.testing.assert_allclose(values.grad, [0.0, -1.5, -0.9], atol=1e-6)
    assert value_clipped(values.detach(), returns, old, 0.2).tolist() == [True, False, False]
    with pytest.raises(ValueError, match="none"):
        value_loss(values, returns, None, 0.2)


@pytest.mark.parametrize("name", ["sigmoid", "ipo"])
def test_online_dpo_is_the_preference_loss_of_the_pairs(name: str) -> None:
    made = Made(LENGTHS)
    new = tensor(made.new).requires_grad_()
    options = DpoOptions(loss=name, beta=0.4)  # type: ignore[arg-type]

    def wanted(x: np.ndarray) -> float:
        ratio = np.array([p.sum() for p in formulas.split(x - made.reference, LENGTHS)])
        if name == "ipo":
            ratio = ratio / np.array(LENGTHS)
            return float(((ratio[0::2] - ratio[1::2] - 1 / 0.8) ** 2).mean())
        return float(np.logaddexp(0, -0.4 * (ratio[0::2] - ratio[1::2])).mean())

    loss, figures = online_dpo(new, tensor(made.reference), made.tokens, options, {}, pairs=3)
    assert loss.item() == pytest.approx(wanted(made.new), abs=1e-10) == figures["policy_loss"].item()
    loss.backward()
    np.testing.assert_allclose(new.grad, numeric(wanted, made.new), atol=1e-7)
    sums = np.array([p.sum() for p in formulas.split(made.new - made.reference, LENGTHS)])
    sums = sums / np.array(LENGTHS) if name == "ipo" else sums
    assert figures["accuracy"].item() == pytest.approx((sums[0::2] > sums[1::2]).mean())
    assert figures["margin"].item() == pytest.approx(0.4 * (sums[0::2] - sums[1::2]).mean())
    assert figures["reward_chosen"].item() - figures["reward_rejected"].item() == pytest.approx(
        figures["margin"].item()
    )
    first, second = (slice(0, 2), slice(0, 4)), (slice(2, 6), slice(4, None))
    found = 0.0
    for answers, tokens in (first, second):
        more, _ = online_dpo(new[tokens], tensor(made.reference)[tokens], made.tokens[answers], options, {}, pairs=3)
        found += more.item()
    assert found == pytest.approx(loss.item(), abs=1e-10)
