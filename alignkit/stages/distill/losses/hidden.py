"""Losses on hidden states: mean squares and cosines, through a learned projection, over a map of layers.

Letters: B rows, T tokens, N positions, D the student's channels, C the teacher's, L layers; state 0 is the
embedding's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

KINDS = ("mse", "cosine")


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """(N,) mean over the channels of the squared difference of (N, C) and (N, C), in fp32 at least (Jiao et al. 2020,
    "TinyBERT", equation 8)."""
    wide = torch.promote_types(student.dtype, torch.float32)
    return (student.to(wide) - teacher.to(wide)).square().mean(-1)


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """(N,) 1 less the cosine of (N, C) and (N, C), in fp32 at least (Sanh et al. 2019, "DistilBERT", section 3)."""
    wide = torch.promote_types(student.dtype, torch.float32)
    return 1 - nn.functional.cosine_similarity(student.to(wide), teacher.to(wide), dim=-1)


def layer_map(student_layers: int, teacher_layers: int) -> dict[int, int]:
    """Each of the student's layers 1…L to the teacher's at the same share of its depth, the last to the last.

    Raises ValueError where the student is the deeper one: two of its layers would have one partner.
    """
    if student_layers > teacher_layers:
        raise ValueError(f"a student of {student_layers} layers is deeper than its teacher of {teacher_layers}")
    # Counted in halves to round up at .5, so that no layer is skipped twice in a row by the banker's rule.
    return {i: (2 * i * teacher_layers + student_layers) // (2 * student_layers) for i in range(1, student_layers + 1)}


class Projections(nn.Module):
    """A linear map without bias from the student's channels to the teacher's for each mapped layer (Romero et al. 2015,
    "FitNets", equation 3; linear as in TinyBERT). They are trained beside the student and thrown away after."""

    def __init__(self, layers: Sequence[int], student: int, teacher: int, *, seed: int) -> None:
        """`layers`: the student's. The start is the same for the same seed, whatever else drew random numbers: an
        orthogonal map, which keeps lengths (as many as fit) and angles."""
        super().__init__()
        make = torch.Generator().manual_seed(seed)
        self.maps = nn.ModuleDict()
        for layer in layers:
            one = nn.Linear(student, teacher, bias=False)
            nn.init.orthogonal_(one.weight, generator=make)
            self.maps[str(layer)] = one

    def forward(self, layer: int, states: Tensor) -> Tensor:
        """(N, C) of the student's states (N, D) of a layer, in the map's own format."""
        one = self.maps[str(layer)]
        assert isinstance(one, nn.Linear)
        found: Tensor = one(states.to(one.weight.dtype))
        return found


def layered(
    kind: str,
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    layers: Mapping[int, int],
    mask: Tensor,
    projections: Projections | None = None,
) -> Tensor:
    """The mean over mapped layers of a loss at the masked positions, (N,).

    Args:
        kind: ``mse`` or ``cosine``.
        student, teacher: states of the embedding and of every layer, (B, T, D) and (B, T, C) each; the teacher's get no
            gradient.
        layers: the student's layer to the teacher's; 0 is the embedding.
        mask: (B, T) bool, the positions that count.
        projections: maps of the student's channels; needed where D and C differ.

    Raises ValueError for an unknown kind, an empty map, and channels that differ without a projection.
    """
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is none of {', '.join(KINDS)}")
    if not layers:
        raise ValueError("no layer of the student is mapped to one of its teacher")
    compare = mse if kind == "mse" else cosine
    total: Tensor | None = None
    for own, other in layers.items():
        mine, theirs = student[own][mask], teacher[other].detach()[mask.to(teacher[other].device)]
        if projections is not None:
            mine = projections(own, mine)
        if mine.shape[-1] != theirs.shape[-1]:
            raise ValueError(f"{mine.shape[-1]} channels against {theirs.shape[-1]} need a projection")
        loss = compare(mine, theirs.to(mine.device))
        total = loss if total is None else total + loss
    assert total is not None
    return total / len(layers)
