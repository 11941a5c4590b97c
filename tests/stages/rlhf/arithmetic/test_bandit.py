"""Every algorithm finds the optimum of a bandit whose optimum is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.stages.rlhf.arithmetic import solvers
from tests.stages.rlhf.arithmetic.bandit import ANSWERS, BEGINNINGS, WORDS, Bandit

BETA = 0.5


def kl(first: Tensor, second: Tensor) -> float:
    """Nats an answer, from log-probabilities of all answers; 0: the same policy."""
    return float((first.double().exp() * (first.double() - second.double())).sum())


def test_the_optimum_is_the_best_of_all_policies() -> None:
    bandit = Bandit()
    assert len(ANSWERS) == 15 and len(BEGINNINGS) == 7 and bandit.reference.shape == (7, WORDS)
    assert bandit.log_probs(bandit.reference).logsumexp(0).item() == pytest.approx(0, abs=1e-6)
    logits = bandit.reference.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=100, line_search_fn="strong_wolfe")

    def minus() -> Tensor:
        optimizer.zero_grad()
        found = bandit.log_probs(logits)
        penalty = (found.exp() * (found - bandit.log_probs(bandit.reference))).sum()
        loss = BETA * penalty - (found.exp() * bandit.rewards).sum()
        loss.backward()
        return loss

    optimizer.step(minus)  # by the exact gradient
    assert bandit.objective(logits, BETA) == pytest.approx(bandit.best(BETA), abs=1e-5)
    assert kl(bandit.log_probs(logits.detach()), bandit.optimum(BETA)) < 1e-4


def named(one: Any) -> str:
    return getattr(one, "__name__", str(one))


REWARDED: list[tuple[Callable[..., Tensor], float]] = [
    (solvers.by_ppo, 0.005),
    (solvers.by_reinforce_plus_plus, 0.005),
    (solvers.by_rloo, 0.01),
    (solvers.by_online_dpo, 0.04),
]


@pytest.mark.parametrize(("solver", "near"), REWARDED, ids=named)
def test_the_kl_holds_the_policy_exactly_where_it_should(solver: Callable[..., Tensor], near: float) -> None:
    bandit = Bandit()
    start = bandit.log_probs(bandit.reference)
    assert kl(start, bandit.optimum(BETA)) > 2
    found = solver(bandit, BETA, steps=300, answers=128)
    assert kl(bandit.log_probs(found), bandit.optimum(BETA)) < near
    assert bandit.objective(found, BETA) == pytest.approx(bandit.best(BETA), abs=near)


@pytest.mark.parametrize("estimator", ["k1", "k2"])
@pytest.mark.parametrize("solver", [solvers.by_ppo, solvers.by_reinforce_plus_plus], ids=named)
def test_a_kl_in_the_loss_is_one_of_single_tokens(solver: Callable[..., Tensor], estimator: str) -> None:
    bandit = Bandit()
    found = bandit.log_probs(solver(bandit, BETA, where="loss", estimator=estimator, steps=300, answers=128))
    near = kl(found, bandit.token_optimum(BETA))
    assert near < 0.02
    assert kl(found, bandit.optimum(BETA)) > 2 * near


@pytest.mark.parametrize("solver", [solvers.by_grpo, solvers.by_reinforce_plus_plus], ids=named)
def test_k3_in_the_loss_comes_to_rest_where_the_backward_kl_does(solver: Callable[..., Tensor]) -> None:
    """GRPO subtracts a mean over S samples, the answer's own among them: its rewards count (S - 1)/S."""
    bandit = Bandit()
    if solver is solvers.by_grpo:
        found = solver(bandit, samples=8, scale="none", loss_type="dr_grpo", beta=BETA, steps=200)
        scale = 7 / 8
    else:
        found, scale = solver(bandit, BETA, where="loss", estimator="k3", steps=200), 63 / 64
    near = kl(bandit.log_probs(found), bandit.token_optimum(BETA, backward=True, scale=scale))
    assert near < 0.01
    assert kl(bandit.log_probs(found), bandit.token_optimum(BETA)) > 0.2


FREE: list[dict[str, Any]] = [
    {"loss_type": "grpo"},
    {"loss_type": "dr_grpo", "scale": "none"},
    {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4},  # GSPO
    {"loss_type": "dapo", "epsilon_high": 0.28},
    {"loss_type": "dapo", "scale": "batch"},
]


@pytest.mark.parametrize("asked", FREE, ids=lambda one: "-".join(map(str, one.values())))
def test_without_a_kl_the_best_answer_is_all_that_is_left(asked: dict[str, Any]) -> None:
    bandit = Bandit()
    best = int(bandit.rewards.argmax())
    assert bandit.log_probs(bandit.reference).exp()[best] < 0.1
    found = bandit.log_probs(solvers.by_grpo(bandit, steps=120, **asked)).exp()
    assert found[best] > 0.9
