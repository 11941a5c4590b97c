"""From scores to what tokens are paid: KL, scaling by running moments, clipping, penalties, and the coefficient."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignkit.stages.rlhf.arithmetic.controller import KlController
from alignkit.stages.rlhf.arithmetic.kl import estimate, penalty
from alignkit.stages.rlhf.arithmetic.moments import RunningMoments
from alignkit.stages.rlhf.arithmetic.rewards import (
    answer_rewards,
    clipped,
    overlong,
    scaled,
    token_rewards,
    without_end,
)
from tests.stages.rlhf.arithmetic import formulas
from tests.stages.rlhf.arithmetic.making import LENGTHS, Made, lengths, seeds, tensor

estimators = ("k1", "k2", "k3")


@given(lengths, seeds)
def test_estimators_of_the_kl(many: list[int], seed: int) -> None:
    made = Made(many, seed)
    for name in estimators:
        found = estimate(tensor(made.new), tensor(made.reference), name)  # type: ignore[arg-type]
        expected = getattr(formulas, name)(made.new, made.reference)
        np.testing.assert_allclose(found, expected, atol=1e-10)
        assert name == "k1" or (found >= -1e-12).all()


def distributions(seed: int, size: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return tensor(rng.normal(0, 1, size)).requires_grad_(), tensor(rng.normal(0, 1, size)).log_softmax(0)


@given(seeds)
def test_k1_and_k3_are_unbiased(seed: int) -> None:
    logits, reference = distributions(seed)
    log_probs = logits.detach().log_softmax(0)
    p = log_probs.exp()
    exact = float((p * (log_probs - reference)).sum())
    for name in ("k1", "k3"):
        mean = float((p * estimate(log_probs, reference, name)).sum())  # type: ignore[arg-type]
        assert mean == pytest.approx(exact, abs=1e-12)


@given(seeds)
def test_the_expected_gradient_in_a_loss_is_that_of_the_kl_it_stands_for(seed: int) -> None:
    """All tokens weighed by their probability, so there is no noise: k1 and k2 of KL(π ‖ ref), k3 of KL(ref ‖ π)."""
    logits, reference = distributions(seed)
    log_probs = logits.log_softmax(0)
    p = log_probs.exp()
    forward = (p * (log_probs - reference)).sum()
    backward = (reference.exp() * (reference - log_probs)).sum()
    wanted = {"k1": forward, "k2": forward, "k3": backward}
    for name in estimators:
        term = (p.detach() * penalty(log_probs, log_probs.detach(), reference, name)).sum()  # type: ignore[arg-type]
        (found,) = torch.autograd.grad(term, logits, retain_graph=True)
        (expected,) = torch.autograd.grad(wanted[name], logits, retain_graph=True)
        np.testing.assert_allclose(found, expected, atol=1e-12)


@given(seeds)
def test_k1_in_a_loss_stays_unbiased_after_the_policy_moved(seed: int) -> None:
    logits, reference = distributions(seed)
    _, old = distributions(seed + 1)
    new = logits.log_softmax(0)
    term = (old.exp() * penalty(new, old, reference, "k1")).sum()
    exact = (new.exp() * (new - reference)).sum()
    assert float(term.detach()) == pytest.approx(float(exact.detach()), abs=1e-12)
    grads = [torch.autograd.grad(one, logits, retain_graph=True)[0] for one in (term, exact)]
    np.testing.assert_allclose(grads[0], grads[1], atol=1e-12)


def test_a_token_that_the_policy_has_all_but_forgotten_gives_a_finite_penalty() -> None:
    new = torch.tensor([-300.0], requires_grad=True)
    found = penalty(new, torch.tensor([-1.0]), torch.tensor([-1.0]), "k3")
    found.sum().backward()
    assert found.isfinite().all() and new.grad is not None and new.grad.isfinite().all() and new.grad.item() < 0


@given(lengths, seeds, st.floats(0, 2))
def test_the_score_stands_at_the_end_and_the_kl_everywhere(many: list[int], seed: int, beta: float) -> None:
    made = Made(many, seed)
    kl = made.new - made.reference
    found = token_rewards(tensor(made.scores), made.tokens, tensor(kl), beta)
    np.testing.assert_allclose(found, formulas.token_rewards(made.scores, many, kl, beta), atol=1e-12)
    whole = answer_rewards(tensor(made.scores), made.tokens, tensor(kl), beta)
    expected = [s - beta * part.sum() for s, part in zip(made.scores, formulas.split(kl, many), strict=True)]
    np.testing.assert_allclose(whole, expected, atol=1e-10)
    without = token_rewards(tensor(made.scores), made.tokens)
    np.testing.assert_allclose(without, formulas.token_rewards(made.scores, many, 0 * kl, 1.0))
    assert torch.equal(answer_rewards(tensor(made.scores), made.tokens), tensor(made.scores))


def test_an_unknown_score_stays_within_its_answer() -> None:
    made = Made(LENGTHS)
    scores = tensor(made.scores)
    scores[2] = torch.nan
    found = token_rewards(scores, made.tokens, tensor(made.new), 0.1).split(LENGTHS)
    assert [bool(part.isnan().any()) for part in found] == [False, False, True, False, False, False]
    assert clipped(scores, 0.5).isnan().sum() == 1


def test_penalties() -> None:
    scores = torch.tensor([1.0, -2.0, 0.5])
    assert without_end(scores, torch.tensor([True, False, True]), 1.5).tolist() == [1.0, -3.5, 0.5]
    assert clipped(scores, 0.75).tolist() == [0.75, -0.75, 0.5]
    sizes = list(range(1, 14))
    found = overlong(torch.tensor(sizes), longest=12, cache=4)
    np.testing.assert_allclose(found, [formulas.overlong(n, 12, 4) for n in sizes], atol=1e-7)
    assert found.tolist().count(-1.0) == 2
    for cache in (0, 13):
        with pytest.raises(ValueError, match="does not fit"):
            overlong(torch.tensor(sizes), longest=12, cache=cache)


batches = st.lists(st.lists(st.floats(-1e3, 1e3), max_size=7), max_size=6)


@given(batches)
def test_moments_are_those_of_all_scores_however_they_came(parts: list[list[float]]) -> None:
    moments = RunningMoments()
    for part in parts:
        moments.update(tensor(part))
    everything = [x for part in parts for x in part]
    assert moments.count == len(everything)
    if everything:
        assert moments.mean == pytest.approx(np.mean(everything), abs=1e-9)
        assert moments.squares / moments.count == pytest.approx(np.var(everything), abs=1e-6, rel=1e-9)
    whole = RunningMoments.of(tensor(everything))
    assert whole.std == pytest.approx(moments.std, rel=1e-6) or np.std(everything) < 1e-4


def test_moments_survive_json_to_the_last_bit_and_skip_unknown_scores() -> None:
    moments = RunningMoments.of(torch.tensor([0.1, 0.7, float("nan"), -3.3, float("inf")]))
    assert moments.count == 3
    other = RunningMoments()
    other.load_state_dict(json.loads(json.dumps(moments.state_dict())))
    assert other == moments
    for one in (moments, other):
        one.update(torch.tensor([1e-3, 2.5]))
    assert other == moments


def test_scaling_divides_by_what_was_seen() -> None:
    scores = np.random.default_rng(0).normal(3, 5, 40)
    found = scaled(tensor(scores), RunningMoments.of(tensor(scores)))
    np.testing.assert_allclose(found, scores / np.std(scores), atol=1e-12)
    for same in (RunningMoments(), RunningMoments.of(torch.full((9,), 1e6)), RunningMoments.of(torch.zeros(4))):
        assert torch.equal(scaled(tensor(scores), same), tensor(scores))


@given(st.floats(1e-3, 1), st.floats(-5, 100), st.floats(0.1, 20), st.integers(1, 999))
def test_the_coefficient_follows_the_papers_rule(beta: float, kl: float, target: float, answers: int) -> None:
    found = KlController(beta, target, 1000).update(kl, answers)
    assert found == pytest.approx(formulas.adaptive(beta, kl, target, answers, 1000), rel=1e-9)
    assert found >= beta if kl >= target else 0 < found <= beta
    assert KlController(beta).update(kl, answers) == beta


def test_the_coefficient_finds_the_one_that_keeps_the_target() -> None:
    """A policy whose KL is 2/β reaches a target of 8 nats at β = 0.25, from either side; a resumed one likewise."""
    for start in (0.01, 4.0):
        control = KlController(start, target=8.0, horizon=100)
        for step in range(400):
            control.update(2 / control.coefficient, 32)
            if step == 7:
                state = json.loads(json.dumps(control.state_dict()))
                control = KlController(start, target=8.0, horizon=100)
                control.load_state_dict(state)
        assert control.coefficient == pytest.approx(0.25, rel=1e-3)


def test_a_coefficient_never_reaches_zero() -> None:
    control = KlController(0.1, target=1.0, horizon=10)
    for _ in range(5):
        assert control.update(0.0, 10_000) > 0
    for wrong in ({"target": 0.0}, {"target": -1.0}, {"target": float("nan")}, {"horizon": 0.0}):
        with pytest.raises(ValueError):
            KlController(0.1, **wrong)
