"""Which parts stay, decided on numbers alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignkit.models.students.plan import (
    Shape,
    best,
    evenly,
    head_choices,
    kept_heads,
    nearest_depth,
    nearest_width,
)


def test_half_of_twelve_layers_are_those_of_distilbert() -> None:
    assert evenly(12, 6) == [0, 2, 4, 7, 9, 11]


@given(st.integers(1, 100).flatmap(lambda total: st.tuples(st.just(total), st.integers(1, total))))
def test_even_layers_rise_at_nearly_equal_steps_from_first_to_last(sizes: tuple[int, int]) -> None:
    total, count = sizes
    found = evenly(total, count)
    assert len(found) == count and found[0] == 0
    if count > 1:
        steps = np.diff(found)
        assert found[-1] == total - 1 and steps.min() >= 1 and steps.max() - steps.min() <= 1


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.data())
def test_the_best_are_the_largest(values: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(values)))
    found = best(torch.tensor(values, dtype=torch.float64), count)
    assert found == sorted(set(found)) and len(found) == count
    assert sorted(values[i] for i in found) == sorted(values)[len(values) - count :]


def test_of_equals_the_first_stay() -> None:
    assert best(torch.zeros(9), 4) == [0, 1, 2, 3]


@given(st.integers(1, 8), st.integers(1, 8))
def test_heads_shrink_by_whole_groups_or_alike_in_all(groups: int, size: int) -> None:
    choices = head_choices(groups * size, groups)
    assert choices[-1] == (groups * size, groups)
    assert [heads for heads, _ in choices] == sorted({heads for heads, _ in choices})
    for heads, kept in choices:
        assert heads % kept == 0
        assert kept == groups or heads // kept == size


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.data())
def test_every_kept_query_finds_its_own_key(groups: int, size: int, depth: int, data: st.DataObject) -> None:
    heads, kept = data.draw(st.sampled_from(head_choices(groups * size, groups)))
    scores = torch.rand(depth, groups * size, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    queries, keys = kept_heads(scores, groups, heads, kept)
    for own, theirs in zip(queries, keys, strict=True):
        assert len(own) == heads and len(theirs) == kept and own == sorted(set(own))
        # Attention gives query i of the student key i // (H'/K'): in the teacher that must be the query's own group.
        assert [theirs[i // (heads // kept)] for i in range(heads)] == [query // size for query in own]


def test_the_weakest_group_goes_and_the_weakest_head_of_each_group() -> None:
    scores = torch.tensor([[1.0, 9, 2, 2, 5, 4]])  # three groups of two
    assert kept_heads(scores, 3, 4, 2) == ([[0, 1, 4, 5]], [[0, 2]])
    assert kept_heads(scores, 3, 3, 3) == ([[1, 2, 4]], [[0, 1, 2]])


def _parameters(shape: Shape) -> int:
    """A Llama without biases, with a vocabulary of 1000, its head tied; heads of 16."""
    attention = 2 * shape.channels * 16 * (shape.heads + shape.groups)
    layer = attention + 3 * shape.channels * shape.neurons + 2 * shape.channels
    return shape.layers * layer + 1001 * shape.channels


TEACHER = Shape(6, 8, 4, 352, 128)


@given(st.floats(0.2, 0.99), st.sampled_from([1, 8, 32]), st.sampled_from([["mlp"], ["heads", "mlp"]]))
def test_parameters_asked_for_are_met_to_half_a_step_of_the_mlp(share: float, multiple: int, axes: list[str]) -> None:
    least = _parameters(Shape(6, 2 if "heads" in axes else 8, 1 if "heads" in axes else 4, multiple, 128))
    wanted = int(least + share * (_parameters(TEACHER) - least))
    found = nearest_width(TEACHER, axes, multiple, wanted, _parameters)
    assert found.neurons % multiple == 0 or found.neurons == TEACHER.neurons
    assert abs(_parameters(found) - wanted) <= 6 * 3 * 128 * multiple / 2 + 1


@given(st.floats(0.15, 0.95))
def test_all_axes_shrink_in_one_proportion(share: float) -> None:
    wanted = int(share * _parameters(TEACHER))
    found = nearest_width(TEACHER, ["heads", "mlp", "hidden"], 8, wanted, _parameters)
    assert abs(_parameters(found) - wanted) < 0.03 * _parameters(TEACHER)
    shares = np.array([found.heads / 8, found.neurons / 352, found.channels / 128])
    assert shares.max() - shares.min() < 0.4  # heads go in steps of an eighth or a quarter, and the MLP makes up for it
    assert found.layers == 6 and found.channels % 8 == 0


@pytest.mark.parametrize("axes", [["heads"], ["hidden"]])
def test_without_the_mlp_the_nearest_step_is_taken(axes: list[str]) -> None:
    sizes = (
        [Shape(6, heads, groups, 352, 128) for heads, groups in head_choices(8, 4)]
        if axes == ["heads"]
        else [Shape(6, 8, 4, 352, channels) for channels in range(8, 129, 8)]
    )
    for wanted in range(_parameters(sizes[0]), _parameters(sizes[-1]), 20_011):
        found = nearest_width(TEACHER, axes, 8, wanted, _parameters)
        assert found in sizes
        assert abs(_parameters(found) - wanted) == min(abs(_parameters(size) - wanted) for size in sizes)


@given(st.integers(0, 1300))
def test_the_nearest_depth(wanted: int) -> None:
    found = nearest_depth(12, wanted, lambda layers: 100 + 90 * layers)
    assert abs(100 + 90 * found - wanted) == min(abs(100 + 90 * n - wanted) for n in range(1, 13))
