"""Several sources as one set of rows: limits, repeats and weights, as arithmetic on row numbers.

Which rows a limit or a repeat takes follows from what they say, not from their order: those with the smallest hashes.
Shares are computed in exact fractions, so that 0.7 of ten rows are seven.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from alignkit.config.sections import DataSource
from alignkit.data.mixing.hashes import Hashes, Indices, smallest
from alignkit.errors import Fault, RequestError


@dataclass(frozen=True)
class Mixture:
    """The rows of an epoch, source after source; the sampler shuffles them. 10 bytes a row."""

    which: NDArray[np.uint16]
    """(n,): the source of each row."""
    index: Indices
    """(n,): its number among the rows of that source."""
    lines: list[str]
    """One sentence for each source, where there are several or something is left out or repeated."""

    def __len__(self) -> int:
        return len(self.index)


def mix(
    parts: Sequence[DataSource], sizes: Sequence[int], hashes: Sequence[Hashes], *, rows: int | None = None
) -> Mixture:
    """Choose the rows of an epoch.

    Without weights every source gives its rows (at most `limit`) `repeat` times. With weights the epoch is as large as
    it can be with the shares that they ask for and no source used more than `repeat` times; what stays unused is said.

    Args:
        parts: the sources, as `Data.parts()` gives them.
        sizes: n_i, how many usable rows each source has.
        hashes: their content hashes, (n_i, 2) uint64 each.
        rows: the epoch has at most this many rows, in the same shares.

    Raises:
        RequestError: a source without rows, or weights for some of the sources only.
    """
    if [len(own) for own in hashes] != list(sizes):
        raise ValueError(f"sizes {list(sizes)} are not those of the hashes {[len(own) for own in hashes]}")
    _refuse(parts, sizes)
    limited = [min(part.limit or size, size) for part, size in zip(parts, sizes, strict=True)]
    # At least one row: a repeat of 0.5 on a single row would make the source vanish.
    caps = [max(1, int(_exact(part.repeat) * count)) for part, count in zip(parts, limited, strict=True)]
    counts = _counts(parts, caps, rows)
    chosen = [_take(own, limit, count) for own, limit, count in zip(hashes, limited, counts, strict=True)]
    return Mixture(
        which=np.repeat(np.arange(len(parts), dtype=np.uint16), counts),
        index=np.concatenate(chosen),
        lines=_lines(parts, sizes, limited, counts, caps),
    )


def _refuse(parts: Sequence[DataSource], sizes: Sequence[int]) -> None:
    """Raise for what cannot be mixed."""
    weighted = sum(part.weight is not None for part in parts)
    faults = [
        Fault(
            where=f"data.sources[{number}].name" if len(parts) > 1 else "data.name",
            what=f"{part.name} has no row that can be used",
            instead="Leave it out, or look at it with `alignkit data check`." if len(parts) > 1 else "",
        )
        for number, (part, size) in enumerate(zip(parts, sizes, strict=True))
        if not size
    ]
    if 0 < weighted < len(parts):
        without = next(number for number, part in enumerate(parts) if part.weight is None)
        faults.append(
            Fault(
                where=f"data.sources[{without}].weight",
                what=f"{parts[without].name} has no weight and {weighted} of {len(parts)} sources have one",
                instead="Give every source a weight, or none.",
            )
        )
    if faults:
        raise RequestError(faults)


def _exact(number: float) -> Fraction:
    """The decimal fraction that was written: 0.7 and not the nearest binary number."""
    return Fraction(repr(float(number)))


def _counts(parts: Sequence[DataSource], caps: Sequence[int], rows: int | None) -> list[int]:
    """How many rows each source gives, none above its cap."""
    if parts[0].weight is None:
        total = sum(caps)
        if rows is None or rows >= total:
            return list(caps)
        shares = [Fraction(cap, total) for cap in caps]
    else:
        weights = [_exact(part.weight or 0) for part in parts]
        shares = [weight / sum(weights) for weight in weights]
    total = int(min(cap / share for cap, share in zip(caps, shares, strict=True)))
    return _apportion(total if rows is None else min(total, rows), shares)


def _apportion(total: int, shares: Sequence[Fraction]) -> list[int]:
    """`total` in whole numbers by shares that sum to 1, each within one of its exact part (largest remainders)."""
    exact = [total * share for share in shares]
    counts = [int(part) for part in exact]
    order = sorted(range(len(exact)), key=lambda number: (counts[number] - exact[number], number))
    for number in order[: total - sum(counts)]:
        counts[number] += 1
    return counts


def _take(hashes: Hashes, limit: int, count: int) -> Indices:
    """`count` row numbers of a source: its `limit` rows as often as they go into it, then those of smallest hash."""
    rows = smallest(hashes, limit)
    times, rest = divmod(count, limit)
    return np.concatenate([np.tile(rows, times), rows[smallest(hashes[rows], rest)]])


def _lines(
    parts: Sequence[DataSource],
    sizes: Sequence[int],
    limited: Sequence[int],
    counts: Sequence[int],
    caps: Sequence[int],
) -> list[str]:
    """ "tickets.jsonl: 500 of 800 rows (limit 500), 62.5% of the mixture"."""
    if len(parts) == 1 and counts[0] == sizes[0]:
        return []
    total = sum(counts)
    lines = []
    for part, rows, limit, count, cap in zip(parts, sizes, limited, counts, caps, strict=True):
        used = min(count, limit)
        line = f"{part.name}: {used:,} of {_rows(rows)}" if used < rows else f"{part.name}: {_rows(rows)}"
        if limit < rows:
            line += f" (limit {limit:,})"
        if count > limit:
            line += f" {count / limit:.3g} times = {count:,}"
        if len(parts) > 1:
            line += f", {100 * count / total:.3g}% of the mixture"
        if part.weight is not None and count < cap:
            line += f"; {_rows(cap - count)} more would be there, but the weights ask for no more"
        lines.append(line)
    return lines


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"
