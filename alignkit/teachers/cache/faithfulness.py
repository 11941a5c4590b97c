"""How much of a teacher a cache keeps: the whole distribution at a sample of positions against what the cache gives
back there.

Letters: N positions, V vocabulary, k entries, w weights of drawn tokens (count over draws).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.teachers.cache.coding import DEEPEST
from alignkit.teachers.cache.layout import Layout
from alignkit.teachers.cache.record import Record

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Faithfulness:
    """Of a sample of positions; nats and shares are means over them."""

    positions: int
    kl: float | None
    """Nats. Of top-k, KL(teacher ‖ cache), where the cache spreads the tail's mass evenly over the tokens it does not
    list. Of samples, KL(cache ‖ teacher) of one position's draws: their noise, since over many positions the draws
    give the teacher's probabilities without bias. None: a server's whole distribution is not known."""
    mass: float
    """The teacher's probability of the tokens that are listed."""
    error: float
    """Nats: the largest rounding of a listed log-probability."""
    entries: float
    """Tokens listed at a position."""
    bytes_per_position: float

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def line(self) -> str:
        """For a person."""
        kept = f"{self.entries:.1f} tokens a position with {100 * self.mass:.2f}% of the teacher's probability"
        told = "" if self.kl is None else f", KL {self.kl:.4f} nats"
        rounded = f"log-probabilities rounded by at most {self.error:.1e}"
        return f"faithful on {self.positions:,} positions: {kept}{told}, {rounded}"


class Comparison:
    """Collects position by position; ``result`` says what it comes to."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._kl: list[Doubles] = []
        self._mass: list[Doubles] = []
        self._error = 0.0
        self._entries = self._bytes = self._positions = 0

    def add(self, record: Record, log_probs: Doubles | None) -> None:
        """A record before it was encoded; the teacher's whole (N, V) log-probabilities, None where not known."""
        arrays = self.layout.encoded(record)
        back = self.layout.decoded([arrays])
        present = np.isfinite(record.log_probs)
        self._positions += len(record)
        self._entries += int(present.sum())
        self._bytes += sum(values.nbytes for values in arrays.values())
        self._mass.append(np.where(present, np.exp(record.log_probs.astype(np.float64)), 0.0).sum(-1))
        # A narrow part of a wide record comes back narrow, with its entries in their order.
        given, found = record.log_probs[present], back.log_probs[np.isfinite(back.log_probs)]
        off = np.abs(given.astype(np.float64) - found)[given > -DEEPEST]
        self._error = max(self._error, float(off.max(initial=0.0)))
        if log_probs is None:
            return
        if record.draws is None:
            self._kl.append(_against_listed(log_probs, back))
        else:
            self._kl.append(_of_draws(log_probs, back))

    def result(self) -> Faithfulness:
        return Faithfulness(
            positions=self._positions,
            kl=float(np.concatenate(self._kl).mean()) if self._kl else None,
            mass=float(np.concatenate(self._mass).mean()),
            error=self._error,
            entries=self._entries / self._positions,
            bytes_per_position=self._bytes / self._positions,
        )


def _against_listed(log_p: Doubles, cached: Record) -> Doubles:
    """KL(teacher ‖ cache) of each position (N,)."""
    assert cached.log_tail is not None
    vocabulary = log_p.shape[1]
    rest = vocabulary - np.isfinite(cached.log_probs).sum(-1)  # tokens that share the tail
    with np.errstate(divide="ignore"):
        even = cached.log_tail.astype(np.float64) - np.log(np.maximum(rest, 1))
    log_q = np.broadcast_to(even[:, None], log_p.shape).copy()
    present = np.isfinite(cached.log_probs)
    rows = np.broadcast_to(np.arange(len(log_p))[:, None], present.shape)
    log_q[rows[present], cached.ids[present]] = cached.log_probs[present]
    p = np.exp(log_p)
    with np.errstate(invalid="ignore"):
        parts = np.where(p > 0, p * (log_p - log_q), 0.0)
    # A probability that fp64 holds and the codes do not (below e^-32) is no infinity of the divergence.
    return np.asarray(np.where(np.isfinite(parts), parts, 0.0).sum(-1), np.float64)


def _of_draws(log_p: Doubles, cached: Record) -> Doubles:
    """KL(draws ‖ teacher) of each position (N,)."""
    assert cached.draws is not None
    w = cached.draws / cached.draws.sum(-1, keepdims=True)
    given = np.take_along_axis(log_p, cached.ids, -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(w > 0, w * (np.log(w) - given), 0.0).sum(-1), np.float64)


def spread_out(count: int, of: int) -> Sequence[int]:
    """``count`` numbers below ``of``, evenly spread; all of them where there are no more."""
    if of <= count:
        return range(of)
    return sorted({int(place) for place in np.linspace(0, of - 1, count)})
