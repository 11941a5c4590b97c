"""Distillation losses in chunks against independent numpy and autograd on full logits, values and gradients."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.models.token_rows import Rows
from alignkit.training import divergences_teacher, token_scores
from alignkit.training.divergences import KINDS, Objective
from alignkit.training.divergences_head import Distilled, distilled_scores
from alignkit.training.logit_rule import LogitRule
from alignkit.training.targets import FullTargets, HeadTargets, MeanTargets
from alignkit.training.token_scores import Workspace
from alignkit.training.token_scores import token_scores as plain_scores
from tests.training.divergence_oracles import numpy_divergence, plain_logits, plain_loss, softmax

DENSE = tuple(kind for kind in KINDS if kind != "uld")
OBJECTIVES = [
    *(Objective(kind=kind) for kind in KINDS),
    *(Objective(kind=kind, temperature=2.5, weight=0.7, ce=0.3) for kind in KINDS),
    Objective(kind="jsd", beta=0.1),
    Objective(kind="skewed-kl", skew=0.9, ce=1.0),
    Objective(kind="forward-kl", weight=5.0, temperature=2.0, ce=2.0),
]
RULES = [LogitRule(), LogitRule(softcap=4.0, scale=1.3)]


@pytest.fixture(autouse=True)
def many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen positions a chunk, 64 columns a tile: nothing here fits into one of either."""
    monkeypatch.setattr(token_scores, "CHUNK_BYTES", 1)
    monkeypatch.setattr(divergences_teacher, "TILE_VALUES", 1)


class Case:
    """A student's head and a teacher's, of one vocabulary of 150 tokens; the teacher's states are wider."""

    def __init__(self, seed: int = 0, n: int = 41, size: int = 150, teacher_size: int | None = None) -> None:
        make = torch.Generator().manual_seed(seed)
        self.hidden = torch.randn(n, 6, generator=make)
        self.weight = torch.randn(size, 6, generator=make)
        self.bias = torch.randn(size, generator=make)
        self.labels = torch.randint(0, size, (n,), generator=make)
        self.up = torch.randn(n, generator=make)
        self.teacher = HeadTargets(
            torch.randn(n, 9, generator=make), torch.randn(teacher_size or size, 9, generator=make) * 0.7
        )

    def t(self, temperature: float) -> torch.Tensor:
        return ((self.teacher.hidden @ self.teacher.weight.T) / temperature).softmax(-1)

    def ours(self, objective: Objective, targets: Any, rule: LogitRule, trained: bool, **more: Any) -> Any:
        """Loss, divergence and gradients by hidden, weight, bias."""
        h = self.hidden.clone().requires_grad_()
        w, b = self.weight.clone().requires_grad_(trained), self.bias.clone().requires_grad_(trained)
        found = distilled_scores(h, w, b, self.labels, targets, objective, rule=rule, **more)
        (found.loss * self.up).sum().backward()
        return found, [x.grad for x in (h, w, b) if x.grad is not None]

    def plain(self, objective: Objective, t: torch.Tensor, rule: LogitRule, trained: bool) -> Any:
        h = self.hidden.clone().requires_grad_()
        w, b = self.weight.clone().requires_grad_(trained), self.bias.clone().requires_grad_(trained)
        loss, divergence = plain_loss(objective, plain_logits(h @ w.T + b, rule), self.labels, t)
        (loss * self.up).sum().backward()
        return (loss, divergence), [x.grad for x in (h, w, b) if x.grad is not None]


def assert_close(ours: tuple[Distilled, list[torch.Tensor]], plain: Any, tolerance: float = 1e-5) -> None:
    (found, mine), ((loss, divergence), theirs) = ours, plain
    assert torch.allclose(found.loss, loss, atol=tolerance, rtol=tolerance)
    assert torch.allclose(found.divergence, divergence, atol=tolerance, rtol=tolerance)
    assert len(mine) == len(theirs)
    for a, b in zip(mine, theirs, strict=True):
        assert torch.allclose(a, b, atol=tolerance, rtol=tolerance), (a - b).abs().max()


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("rule", RULES, ids=["plain", "capped"])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: f"{o.kind}-{o.temperature}-{o.ce}")
def test_values_and_gradients_equal_autograd_on_full_logits(
    objective: Objective, rule: LogitRule, trained: bool
) -> None:
    case = Case()
    ours = case.ours(objective, case.teacher, rule, trained)
    assert_close(ours, case.plain(objective, case.t(objective.temperature), rule, trained))
    assert len(ours[1]) == (3 if trained else 1)


@pytest.mark.parametrize("kind", DENSE)
@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 40),
    size=st.integers(2, 130),
    seed=st.integers(0, 1000),
    spread=st.sampled_from([0.1, 1.0, 8.0]),
    temperature=st.sampled_from([0.5, 1.0, 4.0]),
    share=st.floats(0.02, 0.98),
)
def test_values_equal_numpy(
    kind: str, n: int, size: int, seed: int, spread: float, temperature: float, share: float
) -> None:
    """In fp64, on distributions from nearly flat to nearly certain."""
    rng = np.random.default_rng(seed)
    z, zt = spread * rng.normal(size=(n, size)), spread * rng.normal(size=(n, size))
    objective = Objective(kind=kind, temperature=temperature, beta=share, skew=share)
    targets = FullTargets(torch.tensor(zt).log_softmax(-1))
    labels = torch.zeros(n, dtype=torch.long)
    found = distilled_scores(torch.tensor(z), torch.eye(size, dtype=torch.float64), None, labels, targets, objective)
    expected = numpy_divergence(objective, softmax(zt / temperature), softmax(z / temperature))
    assert np.allclose(found.divergence.numpy(), expected, rtol=1e-9, atol=1e-9)
    assert np.allclose(found.loss.numpy(), temperature**2 * expected, rtol=1e-9, atol=1e-9)
    assert (found.divergence >= -1e-9).all()


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: f"{o.kind}-{o.temperature}-{o.ce}")
def test_a_student_that_says_what_its_teacher_says_has_nothing_to_learn(objective: Objective) -> None:
    case = Case()
    same = HeadTargets(case.hidden, case.weight, case.bias)
    found, (gradient,) = case.ours(replace(objective, ce=0.0), same, LogitRule(), False)
    assert found.divergence.abs().max() < 1e-5
    if objective.kind not in ("tv", "uld"):  # these have a kink there
        assert gradient.abs().max() < 1e-5


def test_limits_join_the_divergences() -> None:
    """JSD over beta nears the forward KL as beta nears 0 and, over 1 - beta, the reverse KL as it nears 1 (Agarwal et
    al. 2024); skew near 0 gives the plain divergences (Ko et al. 2024)."""
    case = Case()
    case.hidden, case.weight, case.bias = case.hidden.double(), case.weight.double(), case.bias.double()
    case.teacher = HeadTargets(case.teacher.hidden.double(), case.teacher.weight.double())
    pairs = [
        (Objective(kind="jsd", beta=1e-9), "forward-kl", 1e-9),
        (Objective(kind="jsd", beta=1 - 1e-9), "reverse-kl", 1e-9),
        (Objective(kind="skewed-kl", skew=1e-13), "forward-kl", 1.0),
        (Objective(kind="skewed-reverse-kl", skew=1e-13), "reverse-kl", 1.0),
    ]
    for objective, limit, scale in pairs:
        near = case.ours(objective, case.teacher, LogitRule(), False)[0].divergence / scale
        exact = case.ours(Objective(kind=limit), case.teacher, LogitRule(), False)[0].divergence
        assert torch.allclose(near, exact, rtol=1e-3), (objective, (near / exact - 1).abs().max())


@pytest.mark.parametrize("kind", ["forward-kl", "jsd", "uld"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_several_teachers_are_averaged_in_probability(kind: str, temperature: float) -> None:
    case, other = Case(0), Case(1)
    objective = Objective(kind=kind, temperature=temperature)
    mean = MeanTargets((case.teacher, other.teacher), (0.3, 0.7))
    t = 0.3 * case.t(temperature) + 0.7 * other.t(temperature)
    assert_close(case.ours(objective, mean, LogitRule(), False), case.plain(objective, t, LogitRule(), False))


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("form", ["heads", "full"])
def test_tables_that_differ_by_padding_are_cut_to_what_they_share(form: str, trained: bool) -> None:
    case = Case(size=130, teacher_size=160)
    case.labels %= 120
    shared, objective = 120, Objective(kind="jsd", ce=0.5)
    targets: Any = case.teacher
    if form == "full":
        targets = FullTargets((case.teacher.hidden @ case.teacher.weight.T).log_softmax(-1))
    ours = case.ours(objective, targets, LogitRule(), trained, vocabulary=shared)
    cut = Case(size=130, teacher_size=160)
    cut.labels, cut.weight, cut.bias = case.labels, case.weight[:shared], case.bias[:shared]
    t = (case.teacher.hidden @ case.teacher.weight[:shared].T).softmax(-1)
    plain = cut.plain(objective, t, LogitRule(), trained)
    if trained:
        assert not ours[1][1][shared:].any() and not ours[1][2][shared:].any()
        ours = (ours[0], [ours[1][0], ours[1][1][:shared], ours[1][2][:shared]])
    assert_close(ours, plain)


def test_targets_that_do_not_fit_are_refused() -> None:
    case = Case(size=130, teacher_size=160)
    with pytest.raises(ValueError, match="160 tokens and the student 130"):
        case.ours(Objective(), case.teacher, LogitRule(), False)
    with pytest.raises(ValueError, match="targets of 5 positions"):
        case.ours(Objective(), case.teacher.take(slice(5)), LogitRule(), False)
    for wrong in ({"kind": "kl"}, {"temperature": 0.0}, {"beta": 1.0}, {"skew": 0.0}, {"ce": -1.0}):
        with pytest.raises(ValueError):
            Objective(**wrong)
    with pytest.raises(ValueError, match="sum to 1"):
        MeanTargets((case.teacher,), (0.5,))


def test_nothing_labelled_costs_nothing() -> None:
    case = Case(n=0)
    found, (gradient,) = case.ours(Objective(ce=1.0), case.teacher, LogitRule(), False)
    assert found.loss.shape == (0,) and gradient.shape == (0, 6)


def test_cross_entropy_alone_is_the_plain_head() -> None:
    case = Case()
    expected = plain_scores(case.hidden, case.weight, case.bias, case.labels)["log_probs"]
    for temperature in (1.0, 2.0):
        objective = Objective(weight=0.0, ce=1.0, temperature=temperature)
        found, _ = case.ours(objective, case.teacher, LogitRule(), False)
        assert torch.allclose(-found.loss, expected, atol=1e-5) and torch.allclose(-found.nll, expected, atol=1e-5)


@pytest.mark.parametrize("shared", [None, 100])
def test_rows_trained_beside_a_frozen_head_get_their_gradient(shared: int | None) -> None:
    case, index = Case(), torch.tensor([3, 120])
    case.labels %= 100
    values = case.weight[index].clone().requires_grad_()
    found = distilled_scores(
        case.hidden,
        case.weight,
        case.bias,
        case.labels,
        case.teacher,
        Objective(kind="jsd", ce=0.2),
        rule=RULES[1],
        vocabulary=shared,
        rows=Rows(values, index, case.bias),
    )
    (found.loss * case.up).sum().backward()
    _, (_, by_weight, _) = case.ours(
        Objective(kind="jsd", ce=0.2), case.teacher, RULES[1], True, **({"vocabulary": shared} if shared else {})
    )
    assert values.grad is not None and torch.allclose(values.grad, by_weight[index], atol=1e-5)
    assert values.grad[0].any()


@pytest.mark.parametrize("trained", [False, True])
def test_half_precision_stays_near_full(trained: bool) -> None:
    case = Case()
    exact = case.ours(Objective(kind="reverse-kl"), case.teacher, LogitRule(), trained)
    low = Case()
    low.hidden, low.weight, low.bias = low.hidden.bfloat16(), low.weight.bfloat16(), low.bias.bfloat16()
    rough = low.ours(Objective(kind="reverse-kl"), case.teacher, LogitRule(), trained)
    assert rough[0].loss.dtype == torch.float32 and rough[1][0].dtype == torch.bfloat16
    assert torch.allclose(rough[0].loss, exact[0].loss, rtol=0.05, atol=0.05)
    for a, b in zip(rough[1], exact[1], strict=True):
        assert (a - b).norm() < 0.03 * b.norm()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = case.ours(Objective(kind="reverse-kl"), case.teacher, LogitRule(), trained)
    assert cast[1][0].dtype == torch.float32 and (cast[1][0] - exact[1][0]).norm() < 0.03 * exact[1][0].norm()


def test_a_workspace_shared_by_calls_changes_nothing() -> None:
    space, case = Workspace(), Case()
    for objective in OBJECTIVES[:7]:
        first = case.ours(objective, case.teacher, LogitRule(), True)
        again = case.ours(objective, case.teacher, LogitRule(), True, space=space)
        assert torch.equal(first[0].loss, again[0].loss)
        assert all(torch.equal(a, b) for a, b in zip(first[1], again[1], strict=True))


def test_nothing_is_lost_when_the_teacher_finds_tokens_impossible() -> None:
    """-inf log-probabilities: no NaN, and finite gradients where the divergence is finite."""
    case = Case()
    log_t = (case.teacher.hidden @ case.teacher.weight.T).masked_fill(torch.arange(150) > 100, -math.inf)
    for kind in KINDS:
        found, grads = case.ours(Objective(kind=kind), FullTargets(log_t.log_softmax(-1)), LogitRule(), False)
        assert found.loss.isfinite().all() and grads[0].isfinite().all(), kind
        if kind not in ("reverse-kl", "uld"):
            plain = case.plain(Objective(kind=kind), log_t.softmax(-1), LogitRule(), False)
            assert_close((found, grads), plain)


@pytest.mark.parametrize("vocabulary", [8_000, 128_000])
def test_a_chunk_takes_the_same_memory_whatever_the_vocabulary(
    vocabulary: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes of a pass over 1024 positions; scripts/bench/distill_memory.py measures the whole process."""
    monkeypatch.undo()
    taken: dict[str, int] = {}

    class Noted(Workspace):
        def take(self, name: str, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
            taken[name] = max(taken.get(name, 0), rows * columns * dtype.itemsize)
            return super().take(name, rows, columns, dtype, device)

    hidden, weight = torch.randn(1024, 4).requires_grad_(), torch.randn(vocabulary, 4)
    targets = HeadTargets(torch.randn(1024, 4), torch.randn(vocabulary, 4))
    labels = torch.zeros(1024, dtype=torch.long)
    distilled_scores(hidden, weight, None, labels, targets, Objective(kind="jsd"), space=Noted()).loss.sum().backward()
    assert set(taken) == {"logits", "teacher"}
    assert 30e6 < sum(taken.values()) <= token_scores.CHUNK_BYTES
