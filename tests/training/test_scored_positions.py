"""Answers scored at given positions: values and gradients of a preference loss are those of the plain computation."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from alignkit.config.sections import Adapter, Model, Quantization
from alignkit.data.branches import Branch, Branched
from alignkit.data.branching import apart, padded, shared
from alignkit.data.templates.install import install
from alignkit.evaluation.templated import with_template
from alignkit.models.adapters import attach
from alignkit.models.attention import use_varlen
from alignkit.models.loading import load
from alignkit.training import token_scores
from alignkit.training.answer_scores import answer_scores, sum_by_answer
from alignkit.training.head import install_scoring_head
from alignkit.training.token_scores import OUTPUTS
from tests.bases import save_base
from tests.branched import random_rows
from tests.tiny import build_model, save_tiny

LENGTHS: list[tuple[int, ...]] = [(9, 5, 7), (1, 1, 4), (17, 6, 6)]
BETA = 0.7
LAYOUTS = {"shared": shared(), "apart": apart(), "padded": padded(0)}


def preference_loss(log_probs: Tensor) -> Tensor:
    """A loss whose weight on a token depends on all of its answer and of the other: chosen and rejected in turn."""
    chosen, rejected = log_probs.view(-1, 2).unbind(1)
    return -F.logsigmoid(BETA * (chosen - rejected)).sum() + 0.01 * chosen.square().sum()


def plain_log_probs(model: Any, rows: list[Branched]) -> Tensor:
    """(A,): every prompt + answer in a pass of its own, all its logits, nothing of ours."""
    found = []
    for row in rows:
        for branch in row.branches:
            ids = row.trunk + branch.ids
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
            token = logits[:-1].log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None]).squeeze(-1)
            found.append(token[len(row.trunk) - 1 :][torch.tensor(branch.scored)].sum())
    return torch.stack(found)


def gradients(model: Any, log_probs: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    preference_loss(log_probs).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal_to_plain(model: Any, layout: str, rows: list[Branched]) -> None:
    """``model`` before ``install_scoring_head``."""
    expected = plain_log_probs(model, rows)
    wanted = gradients(model, expected)
    install_scoring_head(model)
    scores = answer_scores(model, LAYOUTS[layout](rows))
    torch.testing.assert_close(scores.log_probs, expected, rtol=1e-6, atol=1e-5)
    found = gradients(model, scores.log_probs)
    assert found.keys() == wanted.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    for name, gradient in found.items():
        atol = 1e-5 * max(1.0, float(wanted[name].abs().max()))
        torch.testing.assert_close(gradient, wanted[name], rtol=0, atol=atol, msg=lambda text, name=name: name + text)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_scores, "CHUNK_BYTES", 1)  # sixteen positions a chunk: an answer spans several


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("tied", [False, True])
def test_full_fine_tuning(kind: str, tied: bool, layout: str) -> None:
    """All weights trained, so also the head, whose gradient needs what is known after the answers are scored."""
    model = build_model(kind, tie_word_embeddings=tied, initializer_range=0.1).eval()
    use_varlen(model)
    assert_equal_to_plain(model, layout, random_rows(LENGTHS))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("cut", ["prompt", "answer", "both"])
def test_rows_that_were_cut(kind: str, cut: str) -> None:
    """Prompts cut on the left, down to one token, and answers cut on the right, to unequal lengths or equal ones."""
    rows = []
    for keep, row in enumerate(random_rows(LENGTHS), start=1):
        trunk = row.trunk[-keep:] if cut != "answer" else row.trunk
        branches = row.branches
        if cut != "prompt":
            branches = tuple(Branch(branch.ids[:keep], [True] * len(branch.ids[:keep])) for branch in branches)
        rows.append(Branched(trunk=trunk, branches=branches, where=row.where))
    model = build_model(kind, tie_word_embeddings=True, initializer_range=0.1).eval()
    use_varlen(model)
    assert_equal_to_plain(model, "shared", rows)


@pytest.mark.parametrize("kind", ["mistral", "gemma3_text", "mixtral"])
def test_windows_and_experts(kind: str) -> None:
    changes: dict[str, dict[str, Any]] = {
        "mistral": {"sliding_window": 4},
        "gemma3_text": {
            "head_dim": 8,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 8,
        },
        "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 4, "sliding_window": None},
    }
    model = build_model(kind, initializer_range=0.1, **changes[kind]).eval()
    use_varlen(model)
    assert_equal_to_plain(model, "shared", random_rows(LENGTHS))


@pytest.mark.parametrize("adapter", [{"kind": "lora"}, {"kind": "lora", "init": "pissa"}, {"kind": "dora"}], ids=str)
def test_adapters(adapter: dict[str, Any], tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", initializer_range=0.1)
    loaded = load(Model(name=str(tmp_path / "model"), dtype="fp32"), Quantization(), device="cpu")
    peft = attach(loaded, Adapter(**{"rank": 4, **adapter}), seed=0).eval()
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_" in name:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    assert_equal_to_plain(peft, "shared", random_rows(LENGTHS))


@pytest.mark.parametrize("tied", [False, True])
def test_rows_of_the_head_that_are_trained_beside_an_adapter(tied: bool, tmp_path: Path) -> None:
    """Their gradients are those of a head that is trained as a whole."""
    base = save_base(tmp_path / "base", tie_word_embeddings=tied, initializer_range=0.1)
    loaded = load(Model(name=str(base), dtype="fp32"), Quantization(), device="cpu")
    loaded = with_template(loaded, install(loaded.tokenizer, "chatml"))
    rows = random_rows(LENGTHS)
    for row in rows:
        for branch in row.branches:
            branch.ids[-1] = 258  # an answer ends with the template's token, whose row is trained
    dense = copy.deepcopy(loaded.model).requires_grad_(True)
    expected = plain_log_probs(dense, rows)
    preference_loss(expected).backward()
    heads = [dense.get_input_embeddings()] if tied else [dense.get_input_embeddings(), dense.get_output_embeddings()]
    peft = attach(loaded, Adapter(kind="lora", rank=4), seed=0).eval()
    install_scoring_head(peft)
    scores = answer_scores(peft, shared()(rows))
    torch.testing.assert_close(scores.log_probs, expected.detach(), rtol=1e-6, atol=1e-5)
    found = gradients(peft, scores.log_probs)
    trained = [gradient for name, gradient in found.items() if "trainable_tokens" in name]
    assert len(trained) == len(heads)
    for gradient, head in zip(trained, heads, strict=True):
        wanted = head.weight.grad[257:259]
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-5 * max(1.0, float(wanted.abs().max())))


def test_gradcheck_of_full_fine_tuning_in_fp64() -> None:
    """Central differences of the loss by the tied embedding and by a layer below it, through everything."""
    model = build_model("gpt2", layers=1, vocab=23, n_embd=8, n_head=2, n_positions=32, initializer_range=0.3)
    model = model.double().eval()
    use_varlen(model)
    install_scoring_head(model)
    batch = shared()(random_rows([(3, 2, 3), (1, 1, 2)], vocab=23))
    names = ["transformer.wte.weight", "transformer.h.0.attn.c_attn.weight"]
    parameters = dict(model.named_parameters())

    def loss(*values: Tensor) -> Tensor:
        changed = dict(zip(names, values, strict=True))
        found = torch.func.functional_call(
            model,
            {**changed, "lm_head.weight": changed[names[0]]},
            kwargs={
                "fused_lm_head": True,
                **{k: batch[k] for k in ("input_ids", "position_ids", "branch_lengths", "score_from", "score_labels")},
            },
        )
        return preference_loss(sum_by_answer(found.log_probs, batch["answer_tokens"]))

    assert torch.autograd.gradcheck(
        loss, [parameters[name].detach().clone().requires_grad_() for name in names], eps=1e-6, atol=1e-5
    )


def test_all_that_can_be_asked_for() -> None:
    model = build_model("llama", initializer_range=0.1).eval()
    use_varlen(model)
    install_scoring_head(model)
    rows = random_rows(LENGTHS)
    scores = answer_scores(model, shared()(rows), wanted=OUTPUTS)
    start = 0
    answers = [(row.trunk, branch) for row in rows for branch in row.branches]
    for answer, (trunk, branch) in enumerate(answers):
        logits = model(input_ids=torch.tensor([trunk + branch.ids]), use_cache=False).logits[0, len(trunk) - 1 : -1]
        logits = logits[torch.tensor(branch.scored)]
        labels = torch.tensor(branch.ids)[torch.tensor(branch.scored)]
        part = slice(start, start + branch.tokens)
        start += branch.tokens
        log_p = logits.log_softmax(-1)
        assert (scores.answer[part] == answer).all() and scores.tokens[answer] == branch.tokens
        mine = log_p.gather(-1, labels[:, None]).squeeze(-1)
        torch.testing.assert_close(scores.per_token[part], mine, rtol=0, atol=1e-5)
        for found, wanted in (
            (scores.entropy, -(log_p.exp() * log_p).sum(-1)),
            (scores.log_sum_sq_probs, (2 * log_p).logsumexp(-1)),
            (scores.mean_logits, logits.mean(-1)),
        ):
            assert found is not None
            torch.testing.assert_close(found[part], wanted, rtol=0, atol=1e-5)
        assert scores.is_top1 is not None
        assert torch.equal(scores.is_top1[part], logits.argmax(-1) == labels)
    assert start == len(scores.per_token)
    torch.testing.assert_close(scores.sums(scores.per_token), scores.log_probs)
    assert answer_scores(model, shared()(rows)).entropy is None


def test_the_loss_is_the_mean_over_the_scored_tokens() -> None:
    model = build_model("llama")
    use_varlen(model)
    install_scoring_head(model)
    batch = shared()(random_rows(LENGTHS))
    names = ("input_ids", "position_ids", "branch_lengths", "score_from", "score_labels")
    given = {name: batch[name] for name in names}
    out = model(**given, fused_lm_head=True)
    assert out.label_mask is None and out.log_probs.shape == batch["score_from"].shape
    torch.testing.assert_close(out.loss, -out.log_probs.mean())
    torch.testing.assert_close(
        model(**given, fused_lm_head=True, num_items_in_batch=100).loss, -out.log_probs.sum() / 100
    )


def test_sums_by_answer() -> None:
    values = torch.arange(1.0, 7.0, dtype=torch.float64, requires_grad=True)
    tokens = torch.tensor([2, 0, 1, 3])
    assert sum_by_answer(values, tokens).tolist() == [3.0, 0.0, 3.0, 15.0]
    assert torch.autograd.gradcheck(lambda x: sum_by_answer(x, tokens), [values])
