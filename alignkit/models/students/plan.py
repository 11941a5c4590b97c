"""Which parts of a teacher a student keeps: decisions on numbers and scores, without a model. Letters: anatomy.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """Sizes of a model. ``heads`` are H, ``groups`` K."""

    layers: int
    heads: int
    groups: int
    neurons: int
    channels: int


@dataclass(frozen=True)
class Plan:
    """The teacher's parts that stay, as rising indices. None: all of them."""

    layers: list[int]
    shape: Shape
    heads: list[list[int]] | None = None
    """Query heads of each layer that stays."""
    groups: list[list[int]] | None = None
    """Key/value heads of each layer that stays."""
    neurons: list[list[int]] | None = None
    channels: list[int] | None = None


def evenly(total: int, count: int) -> list[int]:
    """``count`` of ``total`` layers at even distances, the first and the last among them; of 12 layers 6 are 0, 2, 4,
    7, 9, 11, those that DistilBERT's code takes."""
    if count == 1:
        return [0]
    return [int(i * (total - 1) / (count - 1) + 0.5) for i in range(count)]


def best(scores: Tensor, count: int) -> list[int]:
    """Indices of the ``count`` largest of (n,) scores, rising; of equals the first."""
    order = torch.sort(scores, descending=True, stable=True).indices[:count]
    return sorted(int(index) for index in order)


def head_choices(heads: int, groups: int) -> list[tuple[int, int]]:
    """(H', K') that leave every group of query heads whole or shrink all groups alike, the smallest first.

    Of two with the same number of query heads, the one with fewer keys and values (a smaller cache).
    """
    size = heads // groups
    found: dict[int, tuple[int, int]] = {}
    for choice in [(size * k, k) for k in range(1, groups + 1)] + [(g * groups, groups) for g in range(1, size + 1)]:
        found.setdefault(choice[0], choice)
    return [found[count] for count in sorted(found)]


def kept_heads(scores: Tensor, groups: int, heads: int, kept_groups: int) -> tuple[list[list[int]], list[list[int]]]:
    """Query and key/value heads to keep in each layer, by (L, H) scores: whole groups, or the best of every group."""
    depth, all_heads = scores.shape
    size = all_heads // groups
    grouped = scores.view(depth, groups, size)
    queries, keys = [], []
    for own in grouped:
        if kept_groups < groups:
            stay = best(own.sum(-1), kept_groups)
            keys.append(stay)
            queries.append([group * size + member for group in stay for member in range(size)])
        else:
            keys.append(list(range(groups)))
            queries.append([group * size + m for group in range(groups) for m in best(own[group], heads // groups)])
    return queries, keys


def nearest_depth(total: int, wanted: int, parameters: Callable[[int], int]) -> int:
    """The number of layers, of ``total`` at most, whose ``parameters`` come nearest to ``wanted``."""
    return min(range(1, total + 1), key=lambda layers: (abs(parameters(layers) - wanted), layers))


def nearest_width(
    teacher: Shape, axes: Sequence[str], multiple: int, wanted: int, parameters: Callable[[Shape], int]
) -> Shape:
    """The shape whose ``parameters`` come nearest to ``wanted``, all ``axes`` (heads, mlp, hidden) in one proportion.

    Heads come in few sizes, so the MLP, where it may change, makes up for what they round.
    """
    known: dict[Shape, int] = {}

    def off(shape: Shape) -> int:
        if shape not in known:
            known[shape] = parameters(shape)
        return known[shape] - wanted

    low, high = 0.0, 1.0  # sizes rise with the share, so it can be halved
    for _ in range(20):
        middle = (low + high) / 2
        if off(_scaled(teacher, axes, multiple, middle)) > 0:
            high = middle
        else:
            low = middle
    for share in (0.0, 1.0):
        off(_scaled(teacher, axes, multiple, share))
    found = min(known, key=lambda shape: (abs(known[shape] - wanted), parameters(shape)))
    if "mlp" not in axes:
        return found
    steps = _sizes(teacher.neurons, multiple)
    low_at, high_at = 0, len(steps) - 1
    while low_at < high_at:
        at = (low_at + high_at) // 2
        if off(_with_neurons(found, steps[at])) < 0:
            low_at = at + 1
        else:
            high_at = at
    near = [_with_neurons(found, size) for size in steps[max(0, low_at - 1) : low_at + 1]]
    return min(near, key=lambda shape: (abs(off(shape)), shape.neurons))


def smallest(teacher: Shape, axes: Sequence[str], multiple: int) -> Shape:
    """The least that ``axes`` can become."""
    return _scaled(teacher, axes, multiple, 0.0)


def _scaled(teacher: Shape, axes: Sequence[str], multiple: int, share: float) -> Shape:
    heads, groups = teacher.heads, teacher.groups
    if "heads" in axes:
        choices = head_choices(heads, groups)
        heads, groups = min(choices, key=lambda choice: abs(choice[0] - share * teacher.heads))
    return Shape(
        layers=teacher.layers,
        heads=heads,
        groups=groups,
        neurons=_rounded(teacher.neurons, multiple, share) if "mlp" in axes else teacher.neurons,
        channels=_rounded(teacher.channels, multiple, share) if "hidden" in axes else teacher.channels,
    )


def _rounded(size: int, multiple: int, share: float) -> int:
    """The multiple nearest to share·size, one at least; the size itself where that is nearer."""
    return min(_sizes(size, multiple), key=lambda one: abs(one - share * size))


def _sizes(size: int, multiple: int) -> list[int]:
    """Multiples up to a size, and the size."""
    return [*range(multiple, size, multiple), size]


def _with_neurons(shape: Shape, neurons: int) -> Shape:
    return Shape(shape.layers, shape.heads, shape.groups, neurons, shape.channels)
