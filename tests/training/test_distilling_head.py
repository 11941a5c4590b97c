"""The distilling forward on whole models: labelled positions, weights, normalisers, adapters; DistilBERT's triple."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from alignkit.stages.distill.losses import hidden as hidden_losses
from alignkit.training.distilling_head import install_distilling_head
from alignkit.training.divergences import Objective
from alignkit.training.divergences_head import distilled_scores
from alignkit.training.head import install_scoring_head
from alignkit.training.targets import FullTargets, HeadTargets
from tests.tiny import build_model


def batch(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(3, 200, (2, 12), generator=torch.Generator().manual_seed(seed))
    labels = ids.clone()
    labels[:, :5] = -100
    labels[1, 9:] = -100
    return ids, labels


def live(teacher: Any, ids: torch.Tensor, labels: torch.Tensor) -> tuple[HeadTargets, torch.Tensor]:
    """The targets of a live teacher, and its logits at the labelled positions."""
    with torch.no_grad():
        states = teacher.base_model(ids).last_hidden_state[:, :-1][labels[:, 1:] != -100]
        logits = teacher(ids).logits[:, :-1][labels[:, 1:] != -100]
    return HeadTargets(states, teacher.get_output_embeddings().weight), logits


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_loss_and_gradients_equal_autograd_on_full_logits(kind: str, tied: bool, frozen: bool) -> None:
    ids, labels = batch()
    teacher = build_model("llama", seed=7, hidden_size=48, layers=3)
    targets, teacher_logits = live(teacher, ids, labels)
    weights = torch.rand(2, 12, generator=torch.Generator().manual_seed(3))
    objective = Objective(kind="jsd", beta=0.3, temperature=2.0, weight=0.9, ce=0.4)
    found = []
    for ours in (True, False):
        model = build_model(kind, tie_word_embeddings=tied)
        if frozen and not tied:
            model.get_output_embeddings().requires_grad_(False)
        mask = labels[:, 1:] != -100
        if ours:
            install_distilling_head(model, objective)
            out = model(input_ids=ids, labels=labels, targets=targets, loss_weights=weights, num_items_in_batch=29)
            loss = out.loss
            assert torch.equal(out.label_mask, mask) and out.divergence.shape == out.nll.shape == (int(mask.sum()),)
        else:
            logits = model(ids).logits[:, :-1][mask]
            p, t = (logits / 2).softmax(-1), (teacher_logits / 2).softmax(-1)
            m = 0.3 * t + 0.7 * p
            value = 0.3 * (t * (t / m).log()).sum(-1) + 0.7 * (p * (p / m).log()).sum(-1)
            each = 0.9 * 4 * value + 0.4 * F.cross_entropy(logits, labels[:, 1:][mask], reduction="none")
            loss = (each * weights[:, 1:][mask]).sum() / 29
        loss.backward()
        found.append((loss.detach(), gradients(model)))
    (mine, my_grads), (plain, plain_grads) = found
    assert torch.allclose(mine, plain, atol=1e-6) and my_grads.keys() == plain_grads.keys()
    for name, grad in my_grads.items():
        assert torch.allclose(grad, plain_grads[name], atol=1e-5), name


def test_distilberts_triple_loss() -> None:
    """5 times the KL at temperature 2 (and its square), 2 times the cross entropy, 1 times the cosine of the last
    states (Sanh et al. 2019, section 3, and the values of their code), against autograd on full logits."""
    ids, labels = batch()
    teacher = build_model(seed=7, layers=4)
    targets, teacher_logits = live(teacher, ids, labels)
    with torch.no_grad():
        teacher_states = teacher(ids, output_hidden_states=True).hidden_states
    mask = labels[:, 1:] != -100
    predicting = torch.cat([mask, torch.zeros(2, 1, dtype=torch.bool)], 1)
    found = []
    for ours in (True, False):
        model = build_model(layers=2)
        if ours:
            install_distilling_head(model, Objective(temperature=2.0, weight=5.0, ce=2.0))
            out = model(input_ids=ids, labels=labels, targets=targets, output_hidden_states=True)
            loss = (
                out.loss + hidden_losses.layered("cosine", out.hidden_states, teacher_states, {2: 4}, predicting).mean()
            )
        else:
            whole = model(ids, output_hidden_states=True)
            logits = whole.logits[:, :-1][mask]
            kd = F.kl_div((logits / 2).log_softmax(-1), (teacher_logits / 2).softmax(-1), reduction="batchmean") * 4
            mine, theirs = whole.hidden_states[-1][predicting], teacher_states[-1][predicting]
            cos = F.cosine_embedding_loss(mine, theirs, torch.ones(len(mine)))
            loss = 5 * kd + 2 * F.cross_entropy(logits, labels[:, 1:][mask]) + cos
        loss.backward()
        found.append((loss.detach(), gradients(model)))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5)
    for name, grad in found[0][1].items():
        assert torch.allclose(grad, found[1][1][name], atol=1e-5), name


def test_positions_may_be_named() -> None:
    """Named positions, in any order, give what the same labels give."""
    ids, labels = batch()
    targets, _ = live(build_model(seed=7), ids, labels)
    model = build_model()
    install_distilling_head(model, Objective(ce=0.5))
    usual = model(input_ids=ids, labels=labels, targets=targets)
    where = (labels[:, 1:] != -100).nonzero()
    flat = where[:, 0] * 12 + where[:, 1]
    wanted = ids.flatten()[flat + 1]
    back = torch.arange(len(flat) - 1, -1, -1)
    named = model(input_ids=ids, positions=flat[back], position_labels=wanted[back], targets=targets.take(back))
    assert torch.allclose(named.token_losses[back], usual.token_losses, atol=1e-6)
    assert torch.allclose(named.loss, usual.loss, atol=1e-6) and named.label_mask is None


def test_an_adapter_alone_learns_and_calls_without_targets_are_plain() -> None:
    from peft import LoraConfig, get_peft_model

    ids, labels = batch()

    def adapted(own: bool) -> Any:
        """The same base, whose untrained head says next to nothing until it is scaled; with an adapter of its own."""
        base = build_model()
        base.get_output_embeddings().weight.data *= 10
        return get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=own))

    targets, _ = live(adapted(False).get_base_model(), ids, labels)
    model = adapted(True)
    logits = model(input_ids=ids).logits
    install_scoring_head(model)
    install_distilling_head(model, Objective(kind="reverse-kl"))
    assert torch.equal(model(input_ids=ids).logits, logits)
    assert model(input_ids=ids, labels=labels, fused_lm_head=True).log_probs.shape == (2, 11)
    before = float(model(input_ids=ids, labels=labels, targets=targets).loss.detach())
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=labels, targets=targets).loss
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.5 * before
    assert all("lora" in name for name in gradients(model))


def test_a_model_pulled_to_a_teacher_ends_there() -> None:
    """Every divergence leads a free student to the teacher's own distribution."""
    count = 13
    targets = FullTargets(torch.randn(count, 259, generator=torch.Generator().manual_seed(0)).log_softmax(-1))
    for kind, rate in (
        ("forward-kl", 0.05),
        ("reverse-kl", 0.05),
        ("skewed-kl", 0.05),
        ("skewed-reverse-kl", 0.05),
        ("jsd", 0.05),
        ("tv", 0.01),
    ):
        z = torch.zeros(count, 259, requires_grad=True)
        optimizer = torch.optim.Adam([z], lr=rate)
        for _ in range(400):
            optimizer.zero_grad()
            found = distilled_scores(
                z, torch.eye(259), None, torch.zeros(count, dtype=torch.long), targets, Objective(kind=kind)
            )
            found.loss.sum().backward()
            optimizer.step()
        distance = 0.5 * (z.detach().softmax(-1) - targets.log_probs.exp()).abs().sum(-1)
        assert distance.max() < (0.05 if kind == "tv" else 0.01), (kind, distance.max())


def test_nothing_labelled_leaves_a_zero_gradient() -> None:
    ids, labels = batch()
    targets, _ = live(build_model(seed=7), ids, labels)
    model = build_model()
    install_distilling_head(model, Objective(ce=1.0))
    out = model(input_ids=ids, labels=torch.full_like(labels, -100), targets=targets.take(slice(0, 0)))
    out.loss.backward()
    assert out.loss.item() == 0.0
    assert all(not grad.any() for grad in gradients(model).values())
