"""What a teacher says at a student's scored positions, in the four forms that the divergences of training/divergence*
read: heads (a live teacher), top-k with the tail's mass, random samples, full log-probabilities.

A form holds N positions, in the order in which the student's labelled positions stand (row by row). No form carries
a gradient.

Letters: N positions, V the teacher's vocabulary, D its hidden size, k entries of a position, M matched tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor

from alignkit.training.logit_rule import LogitRule

LEAST_LOG_PROB = -1e4
"""Stands for log 0: e to it is 0 in every format, and 0 times it is 0 where 0 times infinity is not a number."""


BY_ROW: dict[str, Any] = {"rows": True}
"""Marks a field whose tensor has N rows."""


class _Rows:
    """Tensors with N rows first, which are taken and moved together."""

    def _by_row(self) -> dict[str, Tensor]:
        own: Any = self
        names = (f.name for f in fields(own) if f.metadata.get("rows"))
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def _with(self, rows: dict[str, Tensor]) -> Self:
        own: Any = self
        found: Self = replace(own, **rows)
        return found

    def __len__(self) -> int:
        return len(next(iter(self._by_row().values())))

    def take(self, which: slice | Tensor) -> Self:
        """The same form of some positions: a slice, or (n,) indices or (N,) booleans."""
        return self._with({name: value[which] for name, value in self._by_row().items()})

    def to(self, device: torch.device | str) -> Self:
        """The same form with its rows on a device; a teacher's weights stay where they are."""
        return self._with({name: value.to(device) for name, value in self._by_row().items()})

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """One form of several, one after the other; what is not by row comes from the first."""
        names = parts[0]._by_row()
        return parts[0]._with({name: torch.cat([getattr(part, name) for part in parts]) for name in names})


@dataclass(frozen=True)
class HeadTargets(_Rows):
    """A live teacher: its last hidden states (N, D) and its head, `weight` (V, D), `bias` (V,) or None.

    `rule`: what the teacher does to its head's product, at temperature 1. Nothing of size (N, V) is kept: logits are
    computed chunk by chunk beside the student's.
    """

    hidden: Tensor = field(metadata=BY_ROW)
    weight: Tensor
    bias: Tensor | None = None
    rule: LogitRule = field(default_factory=LogitRule)


@dataclass(frozen=True)
class MeanTargets:
    """Several live teachers of one vocabulary; the target is the weighted mean of their probabilities."""

    heads: tuple[HeadTargets, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.heads) != len(self.weights) or not self.heads:
            raise ValueError(f"{len(self.heads)} teachers and {len(self.weights)} weights")
        if any(w <= 0 for w in self.weights) or abs(math.fsum(self.weights) - 1.0) > 1e-6:
            raise ValueError(f"weights of teachers are above 0 and sum to 1, not {list(self.weights)}")

    def __len__(self) -> int:
        return len(self.heads[0])

    def take(self, which: slice | Tensor) -> MeanTargets:
        """The same teachers at some positions."""
        return replace(self, heads=tuple(head.take(which) for head in self.heads))

    def to(self, device: torch.device | str) -> MeanTargets:
        """The same with its rows on a device."""
        return replace(self, heads=tuple(head.to(device) for head in self.heads))

    @classmethod
    def joined(cls, parts: Sequence[MeanTargets]) -> MeanTargets:
        """One form of several parts of the same teachers."""
        heads = tuple(HeadTargets.joined(column) for column in zip(*(part.heads for part in parts), strict=True))
        return replace(parts[0], heads=heads)


@dataclass(frozen=True)
class FullTargets(_Rows):
    """Log-probabilities (N, V) in nats at temperature 1, normalised; a -inf entry means probability 0."""

    log_probs: Tensor = field(metadata=BY_ROW)


@dataclass(frozen=True)
class TopKTargets(_Rows):
    """The k likeliest tokens of each position, and how much probability the rest holds.

    ids: (N, k), no token twice in a row. log_probs: (N, k) in nats, as the teacher gave them (their probabilities sum
    to what the tail leaves); -inf for an entry that is not there (its id, any of the vocabulary, is not read).
    log_tail: (N,) log of the tail's mass; None: 1 minus the sum of the entries, at least 0.
    temperature: that of the softmax they were taken from; it cannot be changed later, since the tail is not known.
    tail: ``bucket`` compares the tail as one event with the student's mass on the same tokens (a lower bound of the
    divergence, by the data-processing inequality); ``renormalised`` takes the entries for the whole distribution,
    which is biased: it tells the student that every other token is impossible.
    """

    ids: Tensor = field(metadata=BY_ROW)
    log_probs: Tensor = field(metadata=BY_ROW)
    log_tail: Tensor | None = field(default=None, metadata=BY_ROW)
    temperature: float = 1.0
    tail: str = "bucket"

    def __post_init__(self) -> None:
        if self.tail not in ("bucket", "renormalised"):
            raise ValueError(f"tail is bucket or renormalised, not {self.tail!r}")
        if self.ids.shape != self.log_probs.shape:
            raise ValueError(f"ids are {tuple(self.ids.shape)} and log_probs {tuple(self.log_probs.shape)}")


@dataclass(frozen=True)
class SampledTargets(_Rows):
    """Tokens drawn at random from the teacher, with weights (Anshumann et al. 2025, "Sparse Logit Sampling").

    ids: (N, k); a token may stand twice. weights: (N, k) that sum to 1 in a row (counts over draws, or importance
    weights); 0 for an entry that is not there. log_probs: (N, k) the teacher's own log-probabilities of the ids, for
    the value of the divergence; None: the value is the cross entropy. The gradient is the same, and unbiased, for the
    forward KL, which is linear in the teacher's probabilities. No other divergence is, so none takes this form.
    temperature: that of the softmax they were drawn from.
    """

    ids: Tensor = field(metadata=BY_ROW)
    weights: Tensor = field(metadata=BY_ROW)
    log_probs: Tensor | None = field(default=None, metadata=BY_ROW)
    temperature: float = 1.0


@dataclass(frozen=True)
class MatchedTargets:
    """A teacher with another vocabulary, of which M tokens read as M tokens of the student's do.

    Both distributions are compared on the M matched tokens and one event for all others (after the idea of GOLD,
    Patiño et al. 2025). `teacher_ids` and `student_ids` are (M,), pair by pair, no token twice.
    """

    teacher: HeadTargets | MeanTargets | FullTargets | TopKTargets
    teacher_ids: Tensor
    student_ids: Tensor

    def __len__(self) -> int:
        return len(self.teacher)

    def take(self, which: slice | Tensor) -> MatchedTargets:
        """The same at some positions."""
        return replace(self, teacher=self.teacher.take(which))

    def to(self, device: torch.device | str) -> MatchedTargets:
        """The same on a device."""
        moved = (self.teacher.to(device), self.teacher_ids.to(device), self.student_ids.to(device))
        return MatchedTargets(*moved)


DenseTargets: TypeAlias = HeadTargets | MeanTargets | FullTargets
Targets: TypeAlias = DenseTargets | TopKTargets | SampledTargets | MatchedTargets
