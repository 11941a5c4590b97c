"""What a model says of answers: against the plain forward, one sequence at a time, in fp64 arithmetic of numpy."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from alignkit.data.branching import of_layout
from alignkit.models.attention import use_varlen
from alignkit.rollouts import scoring
from alignkit.rollouts.rollout import Rolled, Rollout
from alignkit.rollouts.rows import branched, micro_batches
from alignkit.rollouts.scoring import TokenScores, score, score_batch
from tests.models.test_fused import lora
from tests.rollouts.making import random_answers
from tests.tiny import build_model

LAYOUTS = ["shared", "apart", "padded"]
GROUPS = [[5, 7, 1], [4], [6, 2, 3, 1]]
TEMPERATURE = 0.7


def plain(model: Any, answers: list[Rolled], head: nn.Linear) -> dict[str, np.ndarray]:
    """(N,) each: every prompt + answer in a pass of its own, all its logits, nothing of ours."""
    found: dict[str, list[np.ndarray]] = {"log_probs": [], "entropy": [], "values": [], "is_top1": []}
    for one in answers:
        ids = one.trunk + one.ids
        with torch.no_grad():
            out = model.eval()(input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True)
        at = np.arange(len(one.trunk) - 1, len(ids) - 1)
        logits = out.logits[0].double().numpy()[at] / TEMPERATURE  # (n, V)
        top = logits.max(-1, keepdims=True)
        log_p = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
        found["log_probs"].append(log_p[np.arange(len(at)), one.ids])
        found["entropy"].append(-(np.exp(log_p) * log_p).sum(-1))
        states = out.hidden_states[-1][0].double().numpy()[at]  # (n, D), after the last norm
        weight, bias = head.weight.detach().double().numpy(), float(head.bias.detach()[0])
        found["values"].append(states @ weight[0] + bias)
        found["is_top1"].append(logits.argmax(-1) == one.ids)
    return {name: np.concatenate(values) for name, values in found.items()}


def value_head(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(32, 1)


def as_head(linear: nn.Linear) -> Any:
    return lambda states: linear(states.float())[:, 0]


def policy(layout: str, kind: str = "llama") -> Any:
    model = build_model(kind)
    for parameter in model.parameters():  # a random start is nearly the same everywhere
        parameter.data.mul_(3)
    if layout != "padded":
        use_varlen(model)
    return model


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_one_pass_says_what_single_sequences_say(kind: str, layout: str, batch: int) -> None:
    answers, head = random_answers(GROUPS), value_head()
    expected = plain(policy("padded", kind), answers, head)
    model = policy(layout, kind).train()
    found = score(
        model,
        branched(answers),
        of_layout(layout, 0),
        temperature=TEMPERATURE,
        batch=batch,
        wanted=("log_probs", "entropy", "is_top1"),
        value_head=as_head(head),
    )
    assert found.tokens.tolist() == [len(one.ids) for one in answers]
    for name, values in expected.items():
        got = getattr(found, name)
        assert got.shape == values.shape and not got.requires_grad
        np.testing.assert_allclose(got.numpy(), values, rtol=0, atol=2e-5, err_msg=name)
    assert found.log_probs is not None and found.log_probs.dtype == torch.float32
    assert model.training


def test_values_alone_do_not_ask_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    from alignkit.training import head as scoring_head

    answers, head, lay = random_answers(GROUPS), value_head(), of_layout("shared", 0)
    model, rows = policy("shared"), branched(answers)
    both = score(model, rows, lay, batch=4, value_head=as_head(head))
    monkeypatch.setattr(scoring_head, "_scores_of", lambda *a: pytest.fail("the language-model head was asked"))
    alone = score(model, rows, lay, batch=4, wanted=(), value_head=as_head(head))
    assert alone.log_probs is None and alone.entropy is None
    assert both.values is not None and alone.values is not None and torch.equal(alone.values, both.values)
    with pytest.raises(ValueError, match="the value head gave"):
        score(model, rows, lay, batch=4, wanted=(), value_head=lambda states: states)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pass_with_gradients_computes_the_same_bits(layout: str, dtype: torch.dtype) -> None:
    """So the ratio of the first step is exactly 1 where the parts are the same."""
    answers, head = random_answers(GROUPS), value_head()
    lay = of_layout(layout, 0)
    model = policy(layout).to(dtype).train()
    first = score(model, branched(answers), lay, batch=3, value_head=as_head(head))
    rollout = Rollout.of(0, answers)
    for part in micro_batches(answers, range(len(answers)), 3):
        again = score_batch(model, lay(branched([answers[place] for place in part])), value_head=as_head(head))
        for name in ("log_probs", "entropy", "values"):
            now, before = getattr(again, name), getattr(first, name)
            assert now.requires_grad and torch.equal(now.detach(), rollout.pick(before, part)), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_are_those_of_the_plain_computation(layout: str) -> None:
    answers, head = random_answers(GROUPS), value_head()

    def loss(log_probs: Tensor, entropy: Tensor, values: Tensor) -> Tensor:
        weights = torch.linspace(-1, 2, len(values))
        return (weights * log_probs).sum() + 0.3 * entropy.square().sum() + (values - weights).square().sum()

    ours, theirs = policy(layout), policy("padded")
    own, other = copy.deepcopy(head), head
    batch = of_layout(layout, 0)(branched(answers))
    found = score_batch(ours, batch, temperature=TEMPERATURE, value_head=as_head(own))
    assert found.log_probs is not None and found.entropy is not None and found.values is not None
    loss(found.log_probs, found.entropy, found.values).backward()
    parts: list[list[Tensor]] = [[], [], []]
    for one in answers:
        out = theirs(input_ids=torch.tensor([one.trunk + one.ids]), output_hidden_states=True, use_cache=False)
        at = slice(len(one.trunk) - 1, -1)
        log_p = (out.logits[0, at] / TEMPERATURE).log_softmax(-1)
        parts[0].append(log_p.gather(-1, torch.tensor(one.ids)[:, None])[:, 0])
        parts[1].append(-(log_p.exp() * log_p).sum(-1))
        parts[2].append(other(out.hidden_states[-1][0, at])[:, 0])
    loss(*(torch.cat(part) for part in parts)).backward()
    wanted = [*theirs.named_parameters(), *other.named_parameters()]
    gradients = [p.grad for p in (*ours.parameters(), *own.parameters())]
    for (name, parameter), gradient in zip(wanted, gradients, strict=True):
        assert parameter.grad is not None and gradient is not None, name
        scale = max(1.0, float(parameter.grad.abs().max()))
        torch.testing.assert_close(gradient, parameter.grad, rtol=0, atol=2e-5 * scale, msg=lambda m, n=name: n + m)


def test_an_adapter_and_the_model_below_it() -> None:
    """The policy with its adapter, the reference without: two passes of the same wrapper."""
    answers, lay = random_answers(GROUPS), of_layout("padded", 0)
    wrapped, head = lora(), value_head()
    rows = branched(answers)
    policy_scores = score(wrapped, rows, lay, temperature=TEMPERATURE, batch=4)
    with wrapped.disable_adapter():  # type: ignore[operator]
        reference = score(wrapped, rows, lay, temperature=TEMPERATURE, batch=4, wanted=("log_probs",))
    torch.manual_seed(0)
    expected = plain(build_model(), answers, head)["log_probs"]
    assert reference.log_probs is not None and policy_scores.log_probs is not None and reference.entropy is None
    np.testing.assert_allclose(reference.log_probs.numpy(), expected, rtol=0, atol=2e-5)
    assert float((policy_scores.log_probs - reference.log_probs).abs().max()) > 1e-3


@pytest.mark.parametrize("tokens", [1, 20, 30])
def test_fewer_tokens_at_once_give_the_same(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    answers, model, lay = random_answers(GROUPS), policy("shared"), of_layout("shared", 0)
    whole = score(model, branched(answers), lay, batch=64)
    read: list[int] = []
    model.model.register_forward_pre_hook(lambda m, a, kw: read.append(kw["input_ids"].numel()), with_kwargs=True)
    monkeypatch.setitem(scoring.TOKENS_AT_ONCE, "cpu", tokens)
    parts = score(model, branched(answers), lay, batch=64)
    assert len(read) > 1 and (max(read) <= tokens or tokens == 1)
    assert whole.log_probs is not None and parts.log_probs is not None
    torch.testing.assert_close(parts.log_probs, whole.log_probs, rtol=0, atol=2e-5)


def test_an_answer_without_tokens_has_none() -> None:
    answers = random_answers([[3, 0], [2]])
    for layout in LAYOUTS:
        found = score(policy(layout), branched(answers), of_layout(layout, 0), batch=2)
        assert found.tokens.tolist() == [3, 0, 2]
        assert found.log_probs is not None and found.log_probs.shape == (5,)
        assert found.sums(found.log_probs)[1] == 0


def test_a_prompt_goes_through_the_trunk_once_for_its_answers() -> None:
    answers, model, read = random_answers(GROUPS), policy("shared"), []
    model.model.register_forward_pre_hook(lambda m, a, kw: read.append(kw["input_ids"].numel()), with_kwargs=True)
    score(model, branched(answers), of_layout("shared", 0), batch=64)
    tokens = sum(len(one.ids) for one in answers)
    prompts = {one.prompt: len(one.trunk) for one in answers}
    assert read == [sum(prompts.values()) + tokens]


def test_vectors_as_a_rectangle() -> None:
    scores = TokenScores(torch.tensor([2, 0, 3]))
    values = torch.tensor([1.0, 2, 3, 4, 5], requires_grad=True)
    table = scores.padded(values)
    assert table.tolist() == [[1, 2, 0], [0, 0, 0], [3, 4, 5]]
    assert scores.padded(values, 5).tolist()[2] == [3, 4, 5, 0, 0]
    assert scores.mask().sum(1).tolist() == [2, 0, 3]
    (table * torch.arange(9.0).view(3, 3)).sum().backward()
    assert values.grad is not None and values.grad.tolist() == [0, 1, 6, 7, 8]
