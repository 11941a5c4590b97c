"""Losses on hidden states against numpy; the map of layers; projections."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignkit.stages.distill.losses.hidden import Projections, cosine, layer_map, layered, mse


def states(layers: int, channels: int, seed: int) -> list[torch.Tensor]:
    make = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 7, channels, generator=make) for _ in range(layers + 1)]


def test_values_equal_numpy() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 9, 5))
    assert np.allclose(mse(torch.tensor(a), torch.tensor(b)), ((a - b) ** 2).mean(-1))
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    assert np.allclose(cosine(torch.tensor(a), torch.tensor(b)), 1 - (a * b).sum(-1) / norms)
    assert np.allclose(cosine(torch.tensor(a), torch.tensor(3 * a)), 0) and np.allclose(mse(*[torch.tensor(a)] * 2), 0)
    low = mse(torch.tensor(a).bfloat16(), torch.tensor(b).bfloat16())
    assert low.dtype == torch.float32 and np.allclose(low, ((a - b) ** 2).mean(-1), rtol=0.05)


@pytest.mark.parametrize("kind", ["mse", "cosine"])
@pytest.mark.parametrize("projected", [False, True])
def test_layers_are_compared_where_the_map_says_and_the_mask_is_set(kind: str, projected: bool) -> None:
    student, teacher = states(2, 6 if projected else 10, 0), states(4, 10, 1)
    student = [state.requires_grad_() for state in student]
    teacher = [state.requires_grad_() for state in teacher]
    mask = torch.rand(2, 7, generator=torch.Generator().manual_seed(2)) > 0.4
    maps = Projections([1, 2], 6, 10, seed=0) if projected else None
    found = layered(kind, student, teacher, {1: 2, 2: 4}, mask, maps)
    each = []
    for own, other in ((1, 2), (2, 4)):
        a = student[own].detach()[mask].numpy()
        if maps is not None:
            a = a @ maps.maps[str(own)].weight.detach().numpy().T
        b = teacher[other].detach()[mask].numpy()
        norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        each.append(((a - b) ** 2).mean(-1) if kind == "mse" else 1 - (a * b).sum(-1) / norms)
    assert found.shape == (int(mask.sum()),)
    assert np.allclose(found.detach().numpy(), np.mean(each, axis=0), atol=1e-5)
    found.sum().backward()
    assert student[0].grad is None and all(state.grad is None for state in teacher)
    for state in student[1:]:
        assert state.grad is not None and state.grad[mask].any() and not state.grad[~mask].any()
    if maps is not None:
        assert all(p.grad is not None and p.grad.any() for p in maps.parameters())


@given(student=st.integers(1, 40), more=st.integers(0, 60))
def test_a_layer_map_goes_up_evenly_and_ends_at_the_top(student: int, more: int) -> None:
    teacher = student + more
    found = layer_map(student, teacher)
    assert list(found) == list(range(1, student + 1)) and found[student] == teacher
    steps = np.diff([0, *found.values()])
    assert steps.min() >= 1 and steps.max() - steps.min() <= 1
    with pytest.raises(ValueError, match="deeper"):
        layer_map(teacher + 1, teacher)


def test_projections_start_the_same_and_keep_angles() -> None:
    torch.manual_seed(5)
    one = Projections([1, 3], 6, 10, seed=4)
    torch.manual_seed(6)
    same, other = Projections([1, 3], 6, 10, seed=4), Projections([1, 3], 6, 10, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(next(one.parameters()), next(other.parameters()))
    x = torch.randn(4, 6)
    assert torch.allclose(one(3, x).norm(dim=-1), x.norm(dim=-1), atol=1e-5)


def test_what_cannot_be_compared_is_refused() -> None:
    mask = torch.ones(2, 7, dtype=torch.bool)
    with pytest.raises(ValueError, match="6 channels against 10"):
        layered("mse", states(2, 6, 0), states(4, 10, 1), {1: 2}, mask)
    with pytest.raises(ValueError, match="no layer"):
        layered("mse", states(2, 6, 0), states(2, 6, 1), {}, mask)
    with pytest.raises(ValueError, match="mae"):
        layered("mae", states(2, 6, 0), states(2, 6, 1), {1: 1}, mask)
