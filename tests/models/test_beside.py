"""A reward model on the policy's own tensors says bit for bit what it says when it is loaded alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.config.sections import Adapter, Model, Quantization
from alignkit.models.adapters import attach, save_adapter
from alignkit.models.beside import Apart, load_beside
from alignkit.models.classifier import load_scored
from alignkit.models.loading import Loaded, load
from alignkit.models.locating import locate
from alignkit.models.score_head import with_score_head
from tests.tiny import save_tiny

Dtype = Any
NF4 = Quantization(kind="nf4")
NONE = Quantization()


def section(place: Path, dtype: Dtype = "fp32") -> Model:
    return Model(name=str(place), dtype=dtype)


def make_reward(
    base: Path, place: Path, dtype: Dtype = "fp32", quantization: Quantization = NONE, **changes: Any
) -> Path:
    """An adapter with a head, as the reward stage saves it, with random weights."""
    loaded = with_score_head(load(section(base, dtype), quantization, device="cpu"), seed=3)
    model = attach(loaded, Adapter(kind=changes.pop("kind", "lora"), rank=4, **changes), seed=1)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter) * (1 if "lora" in name else 0.1))
    return save_adapter(model, place, loaded.source, tokenizer=loaded.tokenizer)


def make_policy(
    base: Path, dtype: Dtype = "fp32", quantization: Quantization = NONE, *, trained: bool = True
) -> Loaded:
    """A policy that is being trained as an adapter."""
    loaded = load(section(base, dtype), quantization, device="cpu")
    if trained:
        loaded.model = attach(loaded, Adapter(kind="lora", rank=2), seed=2)
        with torch.no_grad():
            for parameter in loaded.model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1)
    return loaded


IDS = torch.tensor([[3, 44, 5, 61, 7, 8, 9, 70], [9, 8, 17, 6, 5, 4, 3, 2]])


@torch.no_grad()
def scores(model: Any) -> torch.Tensor:
    return model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits[:, 0]


def both(reward: Path, policy: Loaded, dtype: Dtype = "fp32") -> tuple[torch.Tensor, Loaded]:
    """Scores alone, and the reward model beside the policy."""
    alone = load_scored(section(reward, dtype), source=locate(section(reward)), device="cpu")
    return scores(alone.model), load_beside(section(reward, dtype), locate(section(reward)), policy)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {}),
        ("llama", {"kind": "dora", "rslora": True}),
        ("llama", {"targets": ["q_proj", "embed_tokens"], "rank_pattern": {"q_proj": 2}}),
        ("gpt2", {}),
        ("qwen2", {"modules_to_save": ["norm"]}),
    ],
)
def test_the_same_scores_as_alone(
    tmp_path: Path, kind: str, changes: dict[str, Any], trained: bool, dtype: str
) -> None:
    base = save_tiny(tmp_path / "base", kind)
    reward = make_reward(base, tmp_path / "reward", dtype, **changes)
    policy = make_policy(base, dtype, trained=trained)
    with torch.no_grad():
        before = policy.model(input_ids=IDS).logits.clone()
    expected, beside = both(reward, policy, dtype)
    assert torch.equal(scores(beside.model), expected)
    assert expected.std() > 1e-4
    with torch.no_grad():
        assert torch.equal(policy.model(input_ids=IDS).logits, before)


@pytest.mark.parametrize("double", [True, False])
def test_on_a_quantized_base(tmp_path: Path, double: bool) -> None:
    base = save_tiny(tmp_path / "base", hidden_size=64, intermediate_size=128)
    quantization = Quantization(kind="nf4", double=double)
    reward = make_reward(base, tmp_path / "reward", "bf16", quantization, targets=["q_proj", "down_proj"])
    policy = make_policy(base, "bf16", quantization)
    expected, beside = both(reward, policy, "auto")
    assert torch.equal(scores(beside.model), expected)


def test_the_weights_are_the_policys_own(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    policy = make_policy(base)
    _, beside = both(make_reward(base, tmp_path / "reward"), policy)
    theirs = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
    own = [p for p in beside.model.parameters() if p.untyped_storage().data_ptr() not in theirs]
    assert [tuple(p.shape) for p in own] == [(1, 32)], "the head alone is its own"


def test_training_the_policy_goes_on_and_moves_no_score(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    policy = make_policy(base)
    expected, beside = both(make_reward(base, tmp_path / "reward"), policy)
    trainable = [p for p in policy.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=0.1)
    for _ in range(2):
        policy.model.train()
        before = [p.detach().clone() for p in trainable]
        policy.model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert torch.equal(scores(beside.model), expected)
        assert policy.model.training
        assert any(not torch.equal(p, was) for p, was in zip(trainable, before, strict=True))


def test_a_base_that_is_trained_is_noticed(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    policy = make_policy(base, trained=False)
    _, beside = both(make_reward(base, tmp_path / "reward"), policy)
    with torch.no_grad():
        next(policy.model.parameters()).mul_(1.01)
    with pytest.raises(RuntimeError, match="must be frozen"):
        scores(beside.model)


def test_an_adapter_on_an_adapter_that_is_folded_in(tmp_path: Path) -> None:
    """The policy starts from an adapter, and the reward model was trained from it too."""
    base = save_tiny(tmp_path / "base")
    start = load(section(base))
    start.model = attach(start, Adapter(kind="lora", rank=2), seed=4)
    with torch.no_grad():
        for parameter in start.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    sft = save_adapter(start.model, tmp_path / "sft", start.source, tokenizer=start.tokenizer)
    reward = make_reward(sft, tmp_path / "reward")
    expected, beside = both(reward, make_policy(sft))
    assert torch.equal(scores(beside.model), expected)
    with pytest.raises(Apart, match="and the policy's base is"):
        both(reward, make_policy(base))
    with pytest.raises(Apart, match="and the policy's base is"):
        both(make_reward(base, tmp_path / "other"), make_policy(sft))


def test_why_it_is_loaded_alone(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base", hidden_size=64, intermediate_size=128)
    reward = make_reward(base, tmp_path / "reward")
    with pytest.raises(Apart, match="it computes in fp32, and the policy's weights are bf16"):
        both(reward, make_policy(base, "bf16"))
    with pytest.raises(Apart, match="quantization none, and the policy's is nf4"):
        both(reward, make_policy(base, "fp32", NF4))
    merged = load_scored(section(reward), source=locate(section(reward)))
    merged.model.save_pretrained(tmp_path / "merged")
    merged.tokenizer.save_pretrained(tmp_path / "merged")
    with pytest.raises(Apart, match="it is a whole model"):
        load_beside(section(tmp_path / "merged"), locate(section(tmp_path / "merged")), make_policy(base))
