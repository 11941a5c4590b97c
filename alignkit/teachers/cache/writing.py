"""A cache is written. Which rows stand in which shard is decided first, so that a pass that was cut off goes on with
the next shard, and the files are those of a pass that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.data.batching import Collator
from alignkit.data.rows import Encoded
from alignkit.teachers.cache.capture import captured
from alignkit.teachers.cache.faithfulness import Comparison, Faithfulness, spread_out
from alignkit.teachers.cache.layout import ROW_BYTES, Layout
from alignkit.teachers.cache.record import Record
from alignkit.teachers.cache.rows import Wanted
from alignkit.teachers.cache.shard import DamagedShardError, Shard, shard_name, write_shard
from alignkit.teachers.teacher import Teacher
from alignkit.training.divergences_teacher import teacher_log_probs
from alignkit.training.targets import FullTargets, HeadTargets, MeanTargets, Targets
from alignkit.training.token_scores import Workspace

SHARDS = 64
"""A pass that is cut off loses one shard at most: 1/64 of the work, unless shards would be smaller than is sensible."""
LEAST_SHARD, MOST_SHARD = 1 << 20, 256 << 20
"""Bytes."""
SAMPLE = 512
"""Positions that the cache is compared with the teacher on, at most."""
SAMPLE_ROWS = 64
"""Rows that they come from, at most: each is a forward pass of its own."""
SLICE = 32
"""Positions whose whole distributions are in memory at once, in fp64."""


class CacheWriter:
    """Rows, a teacher and a layout; ``write`` makes the shards that are not there yet."""

    def __init__(
        self,
        directory: Path,
        layout: Layout,
        rows: Sequence[Encoded],
        wanted: Wanted,
        *,
        seed: int,
        collate: Collator,
        tokens_at_once: int,
    ) -> None:
        """``collate``: rows to a batch that the teacher reads; ``tokens_at_once``: of a forward pass."""
        self.directory, self.layout, self.rows, self.wanted = directory, layout, rows, wanted
        self.seed, self.collate, self.tokens_at_once = seed, collate, tokens_at_once
        self._space = Workspace()
        self.shards = list(_cut(wanted, layout))

    def missing(self) -> list[int]:
        """Numbers of the shards that are not there as they should be."""
        return [number for number, places in enumerate(self.shards) if not self._stands(number, places)]

    def write(self, teacher: Teacher, progress: Callable[[int], None]) -> None:
        """Make what is missing; ``progress`` is called with the positions just done."""
        for number in self.missing():
            places = self.shards[number]
            found: dict[int, Record] = {}
            for batch in self._batches(places):
                found |= dict(zip(batch, self._records(teacher, batch), strict=True))
                progress(int(self.wanted.positions[batch].sum()))
            rows = [(self.wanted.digests[place].tobytes(), found[place]) for place in places.tolist()]
            write_shard(self.directory / shard_name(number), self.layout, rows)

    def compare(self, teacher: Teacher) -> Faithfulness:
        """The cache against the whole distribution, on a sample of rows that are spread over the data."""
        comparison = Comparison(self.layout)
        typical = max(1.0, float(self.wanted.positions.mean()))
        left = SAMPLE
        for place in spread_out(min(SAMPLE_ROWS, int(np.ceil(SAMPLE / typical))), len(self.wanted)):
            targets = teacher.targets(self._batch([place]))
            record = self._captured(targets, [place])[0]
            own = min(left, len(record))
            for start in range(0, own, SLICE):
                part = slice(start, min(start + SLICE, own))
                comparison.add(record.take(part), _whole(targets, part, self.layout, self._space))
            left -= own
            if not left:
                break
        return comparison.result()

    def _records(self, teacher: Teacher, places: Sequence[int]) -> list[Record]:
        return self._captured(teacher.targets(self._batch(places)), places)

    def _captured(self, targets: Targets, places: Sequence[int]) -> list[Record]:
        digests = [self.wanted.digests[place].tobytes() for place in places]
        counts = [int(self.wanted.positions[place]) for place in places]
        return captured(targets, self.layout, digests, counts, seed=self.seed, space=self._space)

    def _batch(self, places: Sequence[int]) -> dict[str, Any]:
        return self.collate([self.rows[int(self.wanted.places[place])] for place in places])

    def _batches(self, places: NDArray[np.int64]) -> Iterator[list[int]]:
        """A shard's rows by length, the longest first: if memory does not suffice, that shows in the first batch."""
        batch: list[int] = []
        longest = 0
        for place in places[np.argsort(-self.wanted.lengths[places], kind="stable")].tolist():
            longest = longest or int(self.wanted.lengths[place])
            if batch and (len(batch) + 1) * longest > self.tokens_at_once:
                yield batch
                batch, longest = [], int(self.wanted.lengths[place])
            batch.append(place)
        if batch:
            yield batch

    def _stands(self, number: int, places: NDArray[np.int64]) -> bool:
        file = self.directory / shard_name(number)
        if not file.exists():
            return False
        try:
            shard = Shard(file)
            shard.verify()
        except DamagedShardError:
            return False
        return bool(np.array_equal(shard.digests, self.wanted.digests[places]))


def most_bytes(wanted: Wanted, layout: Layout) -> int:
    """What all shards take on the disk at most, their heads left out."""
    return int(wanted.positions.sum()) * layout.most_bytes + len(wanted) * ROW_BYTES


def listing(directory: Path, count: int, digest: Callable[[Path], str]) -> list[dict[str, Any]]:
    """Name, bytes and SHA-256 of every shard, and what stands in it."""
    found: list[dict[str, Any]] = []
    for number in range(count):
        file = directory / shard_name(number)
        shard = Shard(file)
        found.append(
            {
                "name": file.name,
                "bytes": file.stat().st_size,
                "sha256": digest(file),
                "rows": len(shard.digests),
                "positions": shard.positions,
                "entries": shard.entries,
            }
        )
    return found


def _cut(wanted: Wanted, layout: Layout) -> Iterator[NDArray[np.int64]]:
    """Numbers of the rows of each shard, in their order."""
    sizes = wanted.positions * layout.most_bytes + ROW_BYTES
    target = min(max(int(sizes.sum()) // SHARDS, LEAST_SHARD), MOST_SHARD)
    first = size = 0
    for place, own in enumerate(sizes.tolist()):
        if size and size + own > target:
            yield np.arange(first, place)
            first, size = place, 0
        size += own
    if size:
        yield np.arange(first, len(sizes))


def _whole(targets: Targets, part: slice, layout: Layout, space: Workspace) -> NDArray[np.float64] | None:
    """(n, V) log-probabilities of some positions; None where a teacher lists the likeliest tokens only."""
    if not isinstance(targets, HeadTargets | MeanTargets | FullTargets):
        return None
    found = teacher_log_probs(targets.take(part), layout.temperature, space, layout.vocabulary)
    whole: NDArray[np.float64] = found.double().cpu().numpy()
    return whole
