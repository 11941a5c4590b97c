"""What is kept of a position: the likeliest tokens and the mass of the rest, or tokens drawn at random.

Letters: P positions, V vocabulary, k entries of a position, n draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignkit.training.targets import SampledTargets, TopKTargets

Kind: TypeAlias = Literal["top-k", "sampled"]
"""top-k: the likeliest tokens; sampled: drawn from the teacher (Anshumann et al. 2025, "Sparse Logit Sampling")."""


@dataclass(frozen=True)
class Record:
    """P positions in plain numbers. ``ids`` (P, k) int64, no token twice in a row; ``log_probs`` (P, k) float32, nats,
    -inf where there is no entry; of top-k ``log_tail`` (P,) float32, nats; of samples ``draws`` (P, k) int64, how often
    each token was drawn (0: no entry)."""

    ids: NDArray[np.int64]
    log_probs: NDArray[np.float32]
    log_tail: NDArray[np.float32] | None = None
    draws: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, part: slice) -> Record:
        """Some positions."""
        tail, draws = self.log_tail, self.draws
        return Record(
            self.ids[part],
            self.log_probs[part],
            None if tail is None else tail[part],
            None if draws is None else draws[part],
        )

    def targets(self, temperature: float) -> TopKTargets | SampledTargets:
        """As the losses read it."""
        ids, log_probs = torch.from_numpy(self.ids), torch.from_numpy(self.log_probs)
        if self.draws is None:
            assert self.log_tail is not None
            return TopKTargets(ids, log_probs, torch.from_numpy(self.log_tail), temperature=temperature)
        draws = torch.from_numpy(self.draws).double()
        weights = (draws / draws.sum(-1, keepdim=True)).float()
        # Weight 0 times a log-probability of -inf would be no number.
        return SampledTargets(ids, weights, log_probs.masked_fill(weights == 0, 0.0), temperature=temperature)


def top_k(log_probs: Tensor, k: int) -> Record:
    """The k likeliest tokens of (P, V) log-probabilities, the likeliest first, and the mass of the rest.

    The rest is summed as it stands: 1 less the sum of the entries would lose a small tail in rounding.
    """
    found = log_probs.topk(k, sorted=True)
    tail = log_probs.exp().scatter_(-1, found.indices, 0.0).sum(-1).log()
    return Record(
        found.indices.cpu().numpy(),
        found.values.float().cpu().numpy(),
        log_tail=tail.float().cpu().numpy(),
    )


def drawn(log_probs: Tensor, uniforms: NDArray[np.float64]) -> Record:
    """Tokens drawn from (P, V) log-probabilities with chances (P, n) in [0, 1), each token of a position once, with how
    often it was drawn. Count over n is an unbiased estimate of the token's probability."""
    # fp64: in fp32 the sum over a large vocabulary ends short of 1, and the last ids would be drawn too often.
    reached = log_probs.exp().cumsum(-1, dtype=torch.float64)  # (P, V)
    total = reached[:, -1:].contiguous()
    found = torch.searchsorted(reached, torch.from_numpy(uniforms).to(reached.device) * total, right=True)  # (P, n)
    # u times the total may round to the total itself: then it is the last id that has any probability.
    found = torch.minimum(found, torch.searchsorted(reached, total)).sort(-1).values
    ids, draws = _counted(found.cpu().numpy())
    values = log_probs.gather(-1, torch.from_numpy(ids).to(log_probs.device)).float().cpu().numpy()
    return Record(ids, np.where(draws > 0, values, -np.inf).astype(np.float32), draws=draws)


def _counted(ordered: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of (P, n) ids in order: the different ones (P, n) and how often each stands there, 0 where no more are left (the
    id there repeats the last one)."""
    first = np.ones(ordered.shape, bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    place = first.cumsum(-1) - 1  # (P, n): number among the different ids
    rows = np.broadcast_to(np.arange(len(ordered))[:, None], ordered.shape)
    ids = np.repeat(ordered[:, -1:], ordered.shape[1], axis=1)
    ids[rows[first], place[first]] = ordered[first]
    draws = np.zeros(ordered.shape, np.int64)
    np.add.at(draws, (rows, place), 1)
    width = int(place[:, -1].max(initial=0)) + 1
    return np.ascontiguousarray(ids[:, :width]), np.ascontiguousarray(draws[:, :width])


def joined(parts: Sequence[Record]) -> Record:
    """Records one after the other; of different widths, the narrow ones are filled up."""
    width = max(part.ids.shape[1] for part in parts)

    def wide(values: NDArray[Any], fill: Any) -> NDArray[Any]:
        missing = width - values.shape[1]
        return np.pad(values, ((0, 0), (0, missing)), constant_values=fill) if missing else values

    tails = [part.log_tail for part in parts if part.log_tail is not None]
    draws = [wide(part.draws, 0) for part in parts if part.draws is not None]
    return Record(
        np.concatenate([wide(part.ids, 0) for part in parts]),
        np.concatenate([wide(part.log_probs, -np.inf) for part in parts]),
        log_tail=np.concatenate(tails) if tails else None,
        draws=np.concatenate(draws) if draws else None,
    )
