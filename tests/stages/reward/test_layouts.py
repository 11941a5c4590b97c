"""Rewards in every layout are those of the plain computation: each answer in a row of its own, by transformers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.config.sections import Adapter, Model
from alignkit.data.branches import Branch, Branched
from alignkit.models.adapters import attach
from alignkit.models.loading import Loaded, load
from alignkit.models.score_head import with_score_head
from alignkit.stages.reward.rows import collator
from alignkit.stages.reward.scoring import install_reward_forward, rewards_of, score_rows
from alignkit.stages.reward.sharing import choose_layout
from tests.tiny import save_tiny

PAD = 0


def rows(seed: int = 0, count: int = 5, longest: int = 30) -> list[Branched]:
    rng = random.Random(seed)

    def ids(least: int) -> list[int]:
        return [rng.randrange(3, 259) for _ in range(rng.randint(least, longest))]

    def branch() -> Branch:
        own = ids(1)
        return Branch(own, [True] * len(own))

    return [Branched(ids(2), (branch(), branch()), f"row {number}") for number in range(count)]


def scorer(directory: Path, kind: str, **changes: Any) -> Loaded:
    path = save_tiny(directory / kind, kind, initializer_range=0.3, **changes)
    return with_score_head(load(Model(name=str(path), dtype="fp32")), seed=3)


def plain(model: Any, given: list[Branched]) -> torch.Tensor:
    """(A,) by the classifier's own forward, one answer at a time, without padding."""
    found = [
        model(input_ids=torch.tensor([[*row.trunk, *branch.ids]])).logits[0, 0]
        for row in given
        for branch in row.branches
    ]
    return torch.stack(found)


KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "gpt2": {},
    "mistral": {"sliding_window": 16},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["shared", "apart", "padded"])
def test_values_and_gradients_are_the_plain_ones(kind: str, layout: str, tmp_path: Path) -> None:
    loaded = scorer(tmp_path, kind, **KINDS[kind])
    model = attach(loaded, Adapter(kind="lora", rank=4), seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    assert any("score" in name for name in trained)
    given, weights = rows(), torch.linspace(-1, 1, 10)

    def gradients(rewards: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        (rewards * weights).sum().backward()
        return {name: one.grad.clone() for name, one in trained.items() if one.grad is not None}

    expected = plain(model, given)
    slopes = gradients(expected)
    install_reward_forward(model)
    found = rewards_of(model, collator(layout, PAD)(given))
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
    for name, slope in gradients(found).items():
        torch.testing.assert_close(slope, slopes[name], atol=2e-5, rtol=1e-4)
    batched = score_rows(model, given, collator(layout, PAD), batch=2)
    torch.testing.assert_close(torch.tensor(batched.ravel()).float(), expected.detach(), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("layout", ["shared", "apart", "padded"])
def test_pad_tokens_at_the_end_are_passed_over_as_the_classifier_does(layout: str, tmp_path: Path) -> None:
    """Where a model pads with its eos token, its classifier looks at the token before that: so do all layouts."""
    loaded = scorer(tmp_path, "llama")
    model, pad = loaded.model, 2
    model.config.pad_token_id = pad
    given = [
        Branched([5, 6, 2, 7], (Branch([9, 2, 10, 2], [True] * 4), Branch([11, 2, 2], [True] * 3)), "ends in eos"),
        Branched([5, 8], (Branch([2, 2], [True] * 2), Branch([12], [True])), "an answer of eos alone"),
    ]
    expected = plain(model, given)
    found = rewards_of(install_reward_forward(model), collator(layout, pad)(given))
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


def test_the_layout_is_chosen_by_asking_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = rows()

    def choose(loaded: Loaded, some: list[Branched] = given, packing: bool = True) -> str:
        return choose_layout(loaded.model, some, attention=loaded.attention, packing=packing, longest=60)

    llama = scorer(tmp_path, "llama")
    before = {name: one.clone() for name, one in llama.model.state_dict().items()}
    assert choose(llama) == "shared" and choose(llama, packing=False) == "padded"
    assert all(torch.equal(before[name], one) for name, one in llama.model.state_dict().items())
    assert choose(scorer(tmp_path, "mistral", sliding_window=16)) == "shared"
    single = [Branched(row.trunk, row.branches[:1], row.where) for row in given]
    capsys.readouterr()
    assert choose(llama, single) == "apart" and capsys.readouterr().err == ""
    eager = with_score_head(load(Model(name=str(tmp_path / "llama"), dtype="fp32", attention="eager")), seed=0)
    assert choose(eager) == "padded"
    assert "prompts are read once for each answer and rows are padded" in capsys.readouterr().err


def test_a_model_that_sharing_would_change_reads_prompts_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from alignkit.models import attention

    loaded = scorer(tmp_path, "llama")
    right = attention.shared_attention

    def wrong(*args: Any, **kwargs: Any) -> torch.Tensor:
        return right(*args, **kwargs) * 1.05

    monkeypatch.setattr(attention, "shared_attention", wrong)
    assert choose_layout(loaded.model, rows(), attention=loaded.attention, packing=True, longest=60) == "apart"
    assert "what this model makes of an answer is another" in capsys.readouterr().err
