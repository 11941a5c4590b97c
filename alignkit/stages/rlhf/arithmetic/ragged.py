"""Answers of unequal lengths, end to end in one vector: per-token and per-answer views of it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def check(values: Tensor, lengths: Tensor) -> None:
    """Raises ValueError unless ``values`` (N, ...) is made of answers of these lengths, none of them empty."""
    if values.shape[0] != int(lengths.sum()):
        raise ValueError(f"{values.shape[0]} values of answers that have {int(lengths.sum())} tokens")
    if lengths.numel() and int(lengths.min()) < 1:
        raise ValueError("an answer has at least one token, the one that ended it")


def last(lengths: Tensor) -> Tensor:
    """(A,) int64: where in (N,) the last token of each answer stands."""
    return lengths.cumsum(0) - 1


def spread(values: Tensor, lengths: Tensor) -> Tensor:
    """(N,): the value (A,) of each answer at each of its tokens. Differentiable."""
    return values.repeat_interleave(lengths)


def sums(values: Tensor, lengths: Tensor) -> Tensor:
    """(A,): sums over the tokens of each answer. Differentiable; added in one order on every device."""
    found: Tensor = torch.segment_reduce(values, "sum", lengths=lengths, axis=0, unsafe=True, initial=0)
    return found


def padded(values: Tensor, lengths: Tensor, fill: float = 0.0) -> Tensor:
    """(A, T): one answer a row, ``fill`` behind its end. Differentiable; :func:`flat` is its inverse."""
    check(values, lengths)
    return pad_sequence(list(values.split(lengths.tolist())), batch_first=True, padding_value=fill)


def mask(lengths: Tensor, width: int | None = None) -> Tensor:
    """(A, T) bool: which places of :func:`padded` hold a token; ``width`` is T where rows are to be wider."""
    longest = int(lengths.max()) if width is None else width
    return torch.arange(longest, device=lengths.device) < lengths[:, None]


def flat(rows: Tensor, lengths: Tensor) -> Tensor:
    """(N,) of rows (A, T or wider): the tokens of each answer, end to end. Differentiable."""
    return rows[mask(lengths, rows.shape[1])]
