"""The value function stands on the policy's model, takes nothing from it, and goes without a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.config.sections import Adapter, Model
from alignkit.data.branches import Branch, Branched
from alignkit.data.branching import padded
from alignkit.models.adapters import attach
from alignkit.models.loading import load
from alignkit.rollouts.scoring import score_batch
from alignkit.stages.rlhf.recipe import Value
from alignkit.stages.rlhf.value_function import ValueFunction
from tests.tiny import save_tiny

ROWS = [Branched([5, 6, 7], (Branch([8, 9, 10], [True] * 3), Branch([11, 12], [True] * 2)), "")]


@pytest.fixture
def loaded(tmp_path: Path) -> Any:
    return load(Model(name=str(save_tiny(tmp_path / "llama", initializer_range=0.2)), dtype="fp32"))


def lora(loaded: Any) -> Any:
    loaded.model = attach(loaded, Adapter(kind="lora"), seed=0)
    return loaded.model


def values(model: Any, value: ValueFunction) -> torch.Tensor:
    with value.active():
        found = score_batch(model, padded(0)(ROWS), wanted=(), value_head=value.head).values
    assert found is not None
    return found


def log_probs(model: Any) -> torch.Tensor:
    found = score_batch(model, padded(0)(ROWS)).log_probs
    assert found is not None
    return found


@pytest.mark.parametrize("kind", ["trunk", "adapter"])
def test_it_begins_at_nothing_and_leaves_the_policy_alone(loaded: Any, kind: Any) -> None:
    model = lora(loaded)
    before = log_probs(model)
    names = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    value = ValueFunction(model, Value(kind=kind), Adapter(kind="lora"), seed=0)
    assert values(model, value).tolist() == [0.0] * 5
    assert torch.equal(log_probs(model), before)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name, needed in names.items() if needed} < learning
    assert len(value.parameters()) == len(learning) - sum(names.values())
    value.release()
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == names
    assert torch.equal(log_probs(model), before)
    assert list(model.peft_config) == ["default"] and list(model.active_adapters) == ["default"]


def taught(model: Any, value: ValueFunction) -> dict[str, torch.Tensor]:
    """Gradients of a value loss, by the parameters' names, once the head says something."""
    with torch.no_grad():
        value.head.linear.weight.fill_(0.1)
    model.zero_grad()
    with value.active():
        found = score_batch(model, padded(0)(ROWS), wanted=(), value_head=value.head).values
        assert found is not None
        (found - 1).square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


def test_on_the_trunk_it_teaches_the_policy_s_adapter_unless_it_is_detached(loaded: Any) -> None:
    model = lora(loaded)
    value = ValueFunction(model, Value(), Adapter(kind="lora"), seed=0)
    assert any(".default." in name for name in taught(model, value))
    value.release()
    value = ValueFunction(model, Value(detach=True), Adapter(kind="lora"), seed=0)
    assert {name.rsplit(".", 2)[1] for name in taught(model, value)} == {"linear"}


def test_apart_it_teaches_its_own_adapter_alone(loaded: Any) -> None:
    model = lora(loaded)
    value = ValueFunction(model, Value(kind="adapter"), Adapter(kind="lora"), seed=0)
    found = taught(model, value)
    assert any(".value_function." in name for name in found)
    assert not any(".default." in name for name in found)
    assert not any("value_head.linear.lora" in name for name, _ in model.named_parameters())
    # Learning values moves no log-probability.
    before = log_probs(model)
    torch.optim.SGD(value.parameters(), lr=0.5).step()
    assert torch.equal(log_probs(model), before)


@pytest.mark.parametrize("kind", ["trunk", "adapter"])
def test_what_is_saved_comes_back(loaded: Any, kind: Any, tmp_path: Path) -> None:
    model = lora(loaded)
    value = ValueFunction(model, Value(kind=kind), Adapter(kind="lora"), seed=0)
    taught(model, value)
    torch.optim.SGD(value.parameters(), lr=0.1).step()
    expected = values(model, value).detach()
    value.save(tmp_path)
    with torch.no_grad():
        for parameter in value.parameters():
            parameter.add_(1)
    assert not torch.equal(values(model, value), expected)
    value.load(tmp_path)
    assert torch.equal(values(model, value), expected)
