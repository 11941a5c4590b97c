"""Listed targets: top-k with a tail, random samples, matched tokens of another vocabulary; against full logits."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.training import divergences_teacher, token_scores
from alignkit.training.divergences import KINDS, Objective
from alignkit.training.divergences_head import distilled_scores
from alignkit.training.logit_rule import LogitRule
from alignkit.training.targets import FullTargets, HeadTargets, MatchedTargets, SampledTargets, TopKTargets
from tests.training.divergence_oracles import plain_logits, torch_divergence

DENSE = tuple(kind for kind in KINDS if kind != "uld")
V, N = 60, 37


@pytest.fixture(autouse=True)
def many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_scores, "CHUNK_BYTES", 1)
    monkeypatch.setattr(divergences_teacher, "TILE_VALUES", 1)


def drawn(*shape: int, seed: int, scale: float = 1.5) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def top_k(t: torch.Tensor, k: int, **more: Any) -> TopKTargets:
    found = t.topk(k)
    return TopKTargets(found.indices, found.values.log(), **more)


def slopes(
    z: torch.Tensor, targets: Any, objective: Objective, *, vocabulary: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Divergence (N,) and the loss's gradient by the logits (N, V): a head of ones on the diagonal shows it."""
    h = z.clone().requires_grad_()
    labels = torch.zeros(len(z), dtype=torch.long)
    eye = torch.eye(z.shape[1], dtype=z.dtype)
    found = distilled_scores(h, eye, None, labels, targets, objective, vocabulary=vocabulary)
    found.loss.sum().backward()
    assert h.grad is not None
    return found.divergence, h.grad


def lumped(x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Probabilities (N, V) on the listed tokens (N, k) and one event for all others, (N, k + 1)."""
    mine = x.gather(-1, ids)
    return torch.cat([mine, (1 - mine.sum(-1, keepdim=True)).clamp_min(0.0)], -1)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", DENSE)
def test_a_top_k_with_its_tail_equals_autograd_on_lumped_probabilities(
    kind: str, temperature: float, trained: bool
) -> None:
    objective = Objective(kind=kind, temperature=temperature, ce=0.4, weight=0.8)
    rule = LogitRule(softcap=6.0, scale=1.2)
    hidden, weight, bias = drawn(N, 6, seed=0), drawn(V, 6, seed=1, scale=0.7), drawn(V, seed=2)
    labels, up = torch.arange(N) % V, drawn(N, seed=3)
    t = (drawn(N, V, seed=4) / temperature).softmax(-1)
    targets = top_k(t, 7, temperature=temperature)
    results = []
    for ours in (True, False):
        h, w, b = (x.clone().requires_grad_(trained or i == 0) for i, x in enumerate((hidden, weight, bias)))
        if ours:
            found = distilled_scores(h, w, b, labels, targets, objective, rule=rule)
            loss, divergence = found.loss, found.divergence
        else:
            logits = plain_logits(h @ w.T + b, rule)
            p = (logits / temperature).softmax(-1)
            divergence = torch_divergence(objective, lumped(t, targets.ids), lumped(p, targets.ids))
            nll = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
            loss = 0.8 * temperature**2 * divergence + 0.4 * nll
        (loss * up).sum().backward()
        results.append([loss.detach(), divergence.detach(), *(x.grad for x in (h, w, b) if x.grad is not None)])
    assert len(results[0]) == len(results[1]) == (5 if trained else 3)
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=2e-5, rtol=1e-5), (a - b).abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_of_the_whole_vocabulary_equals_the_live_teacher(kind: str) -> None:
    z, objective = drawn(N, V, seed=0), Objective(kind=kind, ce=0.1)
    live = HeadTargets(drawn(N, 9, seed=1), drawn(V, 9, seed=2))
    log_t = (live.hidden @ live.weight.T).log_softmax(-1)
    order = log_t.argsort(descending=True)
    expected, by_logits = slopes(z, live, objective)
    for cached in (TopKTargets(order, log_t.gather(-1, order)), FullTargets(log_t)):
        found, slope = slopes(z, cached, objective)
        assert torch.allclose(found, expected, atol=1e-6) and torch.allclose(slope, by_logits, atol=1e-6)


@pytest.mark.parametrize("kind", DENSE)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(1, V - 2), share=st.floats(0.05, 0.95))
def test_lumping_the_tail_never_adds_to_a_divergence(kind: str, seed: int, k: int, share: float) -> None:
    """The data-processing inequality; and more entries never tell less."""
    z, t = drawn(N, V, seed=seed), drawn(N, V, seed=seed + 1).softmax(-1)
    objective = Objective(kind=kind, beta=share, skew=share)
    values = [slopes(z, targets, objective)[0] for targets in (top_k(t, k), top_k(t, k + 1), FullTargets(t.log()))]
    assert (values[0] <= values[1] + 1e-5).all() and (values[1] <= values[2] + 1e-5).all()


def test_the_tail_may_come_from_the_cache_and_entries_may_be_absent() -> None:
    z, t = drawn(N, V, seed=0), drawn(N, V, seed=1).softmax(-1)
    objective = Objective(kind="jsd")
    plain = top_k(t, 6)
    expected = slopes(z, plain, objective)
    tail = (1 - t.gather(-1, plain.ids).sum(-1)).log()
    # Two entries more that are not there; their ids name tokens that the others name too.
    padded = TopKTargets(
        torch.cat([plain.ids, plain.ids[:, :1], torch.zeros(N, 1, dtype=torch.long)], -1),
        torch.cat([plain.log_probs, torch.full((N, 2), -math.inf)], -1),
        log_tail=tail,
    )
    for same in (replace(plain, log_tail=tail), padded, replace(padded, ids=padded.ids.int(), log_tail=None)):
        for a, b in zip(slopes(z, same, objective), expected, strict=True):
            assert torch.allclose(a, b, atol=1e-6)


def sampled(t: torch.Tensor, draws: int, seed: int) -> SampledTargets:
    ids = torch.multinomial(t, draws, replacement=True, generator=torch.Generator().manual_seed(seed))
    return SampledTargets(ids, torch.full(ids.shape, 1 / draws, dtype=t.dtype), t.gather(-1, ids).log())


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_sampled_targets_are_unbiased_and_a_renormalised_top_k_is_not(temperature: float) -> None:
    """4000 caches of the same 3 positions: the mean of value and gradient nears that of the full teacher as the number
    of caches says it must. The top-k of as many entries stays away from both, however often it is taken."""
    many, draws = 4000, 6
    z, t = drawn(3, V, seed=0).double(), (drawn(3, V, seed=1).double() / temperature).softmax(-1)
    objective = Objective(temperature=temperature, ce=0.2)
    exact, by_logits = slopes(z, FullTargets(t.log() * temperature), objective)
    cached = replace(sampled(t.repeat(many, 1), draws, seed=2), temperature=temperature)
    values, gradients = slopes(z.repeat(many, 1), cached, objective)
    values, gradients = values.view(many, 3), gradients.view(many, 3, V)

    def deviation(found: torch.Tensor, expected: torch.Tensor) -> float:
        """Root mean square of the error in standard errors of the mean: about 1 where nothing is biased."""
        error = found.mean(0) - expected
        return float((error.square() / (found.var(0) / many + 1e-18)).mean().sqrt())

    assert deviation(values, exact) < 2.5 and deviation(gradients, by_logits) < 1.3
    # Each single cache is noisy; the mean is not.
    assert (gradients.mean(0) - by_logits).norm() < 0.05 * (gradients[0] - by_logits).norm()
    cut = top_k(t, draws, temperature=temperature, tail="renormalised")
    _, biased = slopes(z, cut, objective)
    assert (biased - by_logits).norm() > 10 * (gradients.mean(0) - by_logits).norm()


def test_importance_weights_keep_samples_unbiased() -> None:
    """Drawn from a flatter distribution q ∝ t^0.5, weighted by t/q."""
    many = 4000
    z, t = drawn(2, V, seed=0).double(), drawn(2, V, seed=1).double().softmax(-1)
    q = t.sqrt() / t.sqrt().sum(-1, keepdim=True)
    ids = torch.multinomial(q.repeat(many, 1), 8, replacement=True, generator=torch.Generator().manual_seed(3))
    weights = (t / q).repeat(many, 1).gather(-1, ids) / 8
    _, gradients = slopes(z.repeat(many, 1), SampledTargets(ids, weights), Objective())
    _, exact = slopes(z, FullTargets(t.log()), Objective())
    mean, spread = gradients.view(many, 2, V).mean(0), gradients.view(many, 2, V).std(0) / many**0.5
    assert float(((mean - exact) / (spread + 1e-12)).square().mean().sqrt()) < 1.5


def test_where_student_and_teacher_agree_only_the_renormalised_top_k_pulls_them_apart() -> None:
    z = drawn(N, V, seed=0)
    t = z.softmax(-1)
    _, still = slopes(z, top_k(t, 5), Objective())
    value, pulled = slopes(z, top_k(t, 5, tail="renormalised"), Objective())
    assert still.abs().max() < 1e-6
    # KL of the renormalised teacher from itself: minus the log of the mass it kept; the slope takes all from the tail.
    kept = t.topk(5).values.sum(-1)
    assert torch.allclose(value, -kept.log(), atol=1e-5)
    assert torch.allclose(pulled.abs().sum(-1), 2 * (1 - kept), atol=1e-5)


def test_samples_without_log_probabilities_give_the_cross_entropy() -> None:
    z, t = drawn(N, V, seed=0), drawn(N, V, seed=1).softmax(-1)
    targets = sampled(t, 9, seed=2)
    value, slope = slopes(z, targets, Objective())
    bare, same = slopes(z, replace(targets, log_probs=None), Objective())
    assert torch.equal(slope, same)
    assert targets.log_probs is not None
    assert torch.allclose(bare, value - (targets.weights * targets.log_probs).sum(-1), atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(1, V - 1), step=st.sampled_from([0.5, 0.1, 0.01, 0.001]))
def test_rounded_log_probabilities_have_a_bounded_gradient_error(seed: int, k: int, step: float) -> None:
    """Entries off by at most step/2 change t by a factor within exp(±step/2), the tail by what the entries lose; so the
    gradient p - t of the forward KL is off by at most 2 (exp(step/2) - 1) in sum over all tokens, whatever the student.
    The value is off by what that changes times the largest log-ratio, and by step/2."""
    z, t = drawn(N, V, seed=seed).double(), drawn(N, V, seed=seed + 1).double().softmax(-1)
    # Rounded down, so that the entries never hold more than 1 in all.
    exact = top_k(t, k)
    rounded = replace(exact, log_probs=(exact.log_probs / step).ceil() * step - step / 2)
    kept = rounded.log_probs.exp().sum(-1)
    rounded = replace(rounded, log_probs=rounded.log_probs - kept.clamp_min(1 - 1e-9).log()[:, None].clamp_min(0.0))
    off = (rounded.log_probs - exact.log_probs).abs().amax(-1)  # (N,), step/2 and what keeping the sum below 1 adds
    value, slope = slopes(z, exact, Objective())
    other, rough = slopes(z, rounded, Objective())
    bound = 2 * torch.expm1(off)
    assert ((rough - slope).abs().sum(-1) <= bound + 1e-6).all()
    assert off.max() <= step + 1e-9
    p, q = (
        lumped(z.softmax(-1), exact.ids),
        lumped(rounded.log_probs.exp().new_zeros(N, V).scatter(-1, exact.ids, rounded.log_probs.exp()), exact.ids),
    )
    ratio = (q.clamp_min(1e-7).log() - p.log()).abs().amax(-1)
    ratio = torch.maximum(ratio, (lumped(t, exact.ids).clamp_min(1e-7).log() - p.log()).abs().amax(-1))
    assert ((other - value).abs() <= bound * (ratio + 1) + off + 1e-6).all()


@pytest.mark.parametrize("kind", DENSE)
@pytest.mark.parametrize("form", ["heads", "top-k"])
def test_matched_tokens_of_another_vocabulary(kind: str, form: str) -> None:
    """A teacher of 80 tokens, of which 40 read as 40 of the student's 60: everything else is one event on each side."""
    z, objective = drawn(N, V, seed=0), Objective(kind=kind, temperature=1.5)
    live = HeadTargets(drawn(N, 9, seed=1), drawn(80, 9, seed=2, scale=0.7))
    t = (live.hidden @ live.weight.T / 1.5).softmax(-1)
    theirs, mine = torch.randperm(80, generator=torch.Generator().manual_seed(5))[:40], torch.randperm(V)[:40]
    if form == "heads":
        matched = MatchedTargets(live, theirs, mine)
        listed_t, ids = t[:, theirs], mine.expand(N, -1)
    else:
        cached = top_k(t, 10, temperature=1.5)
        matched = MatchedTargets(cached, theirs, mine)
        # Independently: entries with a match keep their place, all else joins the tail.
        pairs = dict(zip(theirs.tolist(), mine.tolist(), strict=True))
        listed_t, ids = torch.zeros(N, V), torch.arange(V).expand(N, -1)
        expected = []
        for row in range(N):
            own = [(pairs[i], t[row, i]) for i in cached.ids[row].tolist() if i in pairs]
            a = torch.tensor([float(x) for _, x in own])
            b = torch.tensor([float((z[row] / 1.5).softmax(-1)[i]) for i, _ in own])
            a, b = (torch.cat([x, (1 - x.sum()).reshape(1)])[None] for x in (a, b))
            expected.append(torch_divergence(objective, a, b))
        found, slope = slopes(z, matched, objective)
        assert torch.allclose(found, torch.cat(expected), atol=1e-5) and slope.isfinite().all()
        return
    h = z.clone().requires_grad_()
    p = lumped((h / 1.5).softmax(-1), ids)
    a = torch.cat([listed_t, 1 - listed_t.sum(-1, keepdim=True)], -1)
    value = torch_divergence(objective, a, p)
    (1.5**2 * value).sum().backward()
    found, slope = slopes(z, matched, objective)
    assert torch.allclose(found, value, atol=1e-5) and torch.allclose(slope, h.grad, atol=1e-5)


def test_a_student_whose_every_token_is_matched_learns_the_teacher_among_them() -> None:
    z, live = drawn(N, V, seed=0), HeadTargets(drawn(N, 9, seed=1), drawn(80, 9, seed=2))
    theirs, mine = torch.randperm(80)[:V], torch.randperm(V)
    t = (live.hidden @ live.weight.T)[:, theirs].softmax(-1)[:, mine.argsort()]
    found, slope = slopes(z, MatchedTargets(live, theirs, mine), Objective(kind="reverse-kl"))
    expected, by_logits = slopes(z, FullTargets(t.log()), Objective(kind="reverse-kl"))
    assert torch.allclose(found, expected, atol=1e-5) and torch.allclose(slope, by_logits, atol=1e-5)


def test_sorted_probabilities_ignore_which_token_has_them() -> None:
    z, t = drawn(N, V, seed=0), drawn(N, 80, seed=1).softmax(-1)
    shuffled = t[:, torch.randperm(80)]
    objective = Objective(kind="uld")
    found, slope = slopes(z, FullTargets(t.log()), objective)
    assert torch.allclose(found, slopes(z, FullTargets(shuffled.log()), objective)[0], atol=1e-6)
    h = z.clone().requires_grad_()
    value = torch_divergence(objective, t, h.softmax(-1))
    value.sum().backward()
    assert torch.allclose(found, value, atol=1e-5) and torch.allclose(slope, h.grad, atol=1e-5)
    # Fewer entries of the teacher never make more of it.
    values = [slopes(z, top_k(t, k), objective)[0] for k in (3, 10, 30)]
    assert (values[0] <= values[1] + 1e-5).all() and (values[1] <= values[2] + 1e-5).all()
    assert (values[2] <= found + 1e-5).all()


def test_a_top_k_gives_sorted_probabilities_a_gradient_down_its_own_slope() -> None:
    z, targets = drawn(N, V, seed=0).double(), top_k(drawn(N, 80, seed=1).double().softmax(-1), 9)
    value, slope = slopes(z, targets, Objective(kind="uld"))
    direction = drawn(N, V, seed=9).double()
    ahead = slopes(z + 1e-7 * direction, targets, Objective(kind="uld"))[0]
    assert torch.allclose((ahead - value) / 1e-7, (slope * direction).sum(-1), atol=1e-4)


def test_entries_of_padding_join_the_tail() -> None:
    """A teacher whose table is longer than the student's, cut to what they share."""
    t = drawn(N, V + 10, seed=1).softmax(-1)
    z, cached = drawn(N, V, seed=0), top_k(t, 12)
    assert (cached.ids >= V).any()
    found, _ = slopes(z, cached, Objective(), vocabulary=V)
    expected = []
    for row in range(N):
        ids = [i for i in cached.ids[row].tolist() if i < V]
        a, b = t[row][ids], z[row].softmax(-1)[ids]
        a, b = (torch.cat([x, (1 - x.sum()).reshape(1)])[None] for x in (a, b))
        expected.append(torch_divergence(Objective(), a, b))
    assert torch.allclose(found, torch.cat(expected), atol=1e-5)
    _, slope = slopes(z, sampled(t, 50, seed=3), Objective(), vocabulary=V)
    assert slope.isfinite().all()


def test_what_cannot_be_computed_is_refused() -> None:
    z, t = drawn(N, V, seed=0), drawn(N, V, seed=1).softmax(-1)
    for targets, objective, words in (
        (sampled(t, 4, seed=0), Objective(kind="jsd"), "linear in the teacher"),
        (sampled(t, 4, seed=0), Objective(kind="uld"), "linear in the teacher"),
        (sampled(t, 4, seed=0), Objective(temperature=2.0), "taken at temperature 1.0"),
        (top_k(t, 4), Objective(temperature=2.0), "taken at temperature 1.0"),
        (top_k(t, 4), Objective(kind="uld", temperature=2.0), "taken at temperature 1.0"),
        (top_k(t, 4, tail="renormalised"), Objective(kind="reverse-kl"), "infinite"),
    ):
        with pytest.raises(ValueError, match=words):
            slopes(z, targets, objective)
    with pytest.raises(ValueError, match="bucket or renormalised"):
        top_k(t, 4, tail="dropped")
    with pytest.raises(ValueError, match="ids are"):
        TopKTargets(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 4))


def test_forms_are_taken_joined_and_moved_by_row() -> None:
    t = drawn(N, V, seed=1).softmax(-1)
    live = HeadTargets(drawn(N, 9, seed=1), drawn(V, 9, seed=2))
    for whole in (top_k(t, 4), sampled(t, 4, seed=0), FullTargets(t.log()), live):
        assert len(whole) == N
        parts = [whole.take(slice(0, 10)), whole.take(torch.arange(10, N))]
        joined = type(whole).joined(parts).to("cpu")
        assert len(parts[0]) == 10 and len(joined) == N
        assert torch.equal(
            slopes(drawn(N, V, seed=0), joined, Objective())[0], slopes(drawn(N, V, seed=0), whole, Objective())[0]
        )
