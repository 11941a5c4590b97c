"""A cache as a teacher: what it holds of the rows of a batch, from memory-mapped shards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignkit.config.sections import Model
from alignkit.data.rows import Encoded
from alignkit.errors import Fault, RequestError
from alignkit.runs.digests import file_digest
from alignkit.teachers.cache.layout import Arrays, Layout
from alignkit.teachers.cache.record import Kind
from alignkit.teachers.cache.rows import digested, row_digest
from alignkit.teachers.cache.shard import FORMAT, DamagedShardError, Shard
from alignkit.teachers.circumstances import Circumstances, model_digest
from alignkit.teachers.recipe import HEAD, cache_directory, cache_faults
from alignkit.teachers.teacher import rows_of
from alignkit.training.targets import SampledTargets, TopKTargets

TOKENIZER = "tokenizer"
"""Directory of a cache with the tokenizer that its ids belong to."""


class CachedTeacher:
    """What a teacher-cache run wrote. Rows are found by their tokens (``cache/rows.py``).

    16 bytes of memory a row, and as much again for their order; positions stay on the disk.
    """

    def __init__(self, path: Path, *, where: str = "distill.cache") -> None:
        """``path``: a teacher-cache run, or its directory `cache`; ``where``: the key that a person wrote it under.

        Raises RequestError where there is no finished cache, and for a shard that is missing, cut short or altered,
        which it names. A shard is read in full only where its digest is not remembered from before.
        """
        if faults := list(cache_faults(str(path), where)):
            raise RequestError(faults)
        self.directory, self.where = cache_directory(str(path)), where
        try:
            head: dict[str, Any] = json.loads((self.directory / HEAD).read_bytes())
            if head["format"] != FORMAT:
                raise ValueError(f"it is in format {head['format']}, and this is format {FORMAT}")
            self.layout = Layout(**head["layout"])
            self.circumstances = Circumstances.from_dict(head["circumstances"])
            listed: list[dict[str, Any]] = head["shards"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RequestError(
                Fault(where=where, what=f"{self.directory / HEAD} cannot be read: {error}", instead=_ANEW)
            ) from error
        self.facts = head
        self.shards = [self._shard(one["name"], one["sha256"]) for one in listed]
        counts = [len(shard.digests) for shard in self.shards]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        # The first 8 bytes of a digest order the rows; the other 8 tell two of one beginning apart.
        names = [np.ascontiguousarray(shard.digests).view("<u8").reshape(-1, 2) for shard in self.shards]
        whole = np.concatenate(names) if names else np.zeros((0, 2), "<u8")  # (R, 2)
        order = np.lexsort((whole[:, 1], whole[:, 0]))
        self._names, self._order = whole[order], order.astype(np.int64)

    def _shard(self, name: str, digest: str) -> Shard:
        file = self.directory / name
        try:
            shard = Shard(file)
            if file_digest(file) != digest:
                raise DamagedShardError("was altered: it is not the file that the cache was finished with")
        except DamagedShardError as problem:
            raise RequestError(Fault(where=self.where, what=f"{file} {problem}", instead=_ANEW)) from problem
        return shard

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.directory, self.where)

    def __len__(self) -> int:
        """Rows."""
        return len(self._order)

    @property
    def kind(self) -> Kind:
        return self.layout.kind

    @property
    def temperature(self) -> float:
        """Of the softmax that was recorded; the loss must use the same."""
        return self.layout.temperature

    @property
    def vocabulary(self) -> int:
        return self.layout.vocabulary

    def tokenizer(self) -> Any:
        """The tokenizer that the ids belong to."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(self.directory / TOKENIZER))

    def targets(self, batch: Mapping[str, Any]) -> TopKTargets | SampledTargets:
        """What the teacher said of the batch's rows, on the CPU. Raises RequestError for a row that is not there."""
        found: list[Arrays] = []
        for number, tokens in enumerate(rows_of(batch)):
            if not tokens.labelled.any():
                continue
            place = self.find(row_digest(tokens))
            if place is None:
                named = batch.get("rows")
                raise self._absent(named[number] if named else f"row {number + 1} of a batch")
            found.append(self._row(place))
        record = self.layout.decoded(found) if found else self.layout.nothing()
        return record.targets(self.temperature)

    def find(self, digest: bytes) -> int | None:
        """The number of a row; None where the cache does not hold it."""
        first, second = np.frombuffer(digest, "<u8")
        at = int(np.searchsorted(self._names[:, 0], first))
        while at < len(self._names) and self._names[at, 0] == first:
            if self._names[at, 1] == second:
                return int(self._order[at])
            at += 1
        return None

    def require(self, rows: Sequence[Encoded], now: Circumstances) -> None:
        """Every row is in the cache. Raises RequestError that names what differs from when the cache was written.

        ``now``: the circumstances under which ``rows`` were made.
        """
        missing, first = 0, ""
        for place, digest, tokens in digested(rows):
            if tokens.labelled.any() and self.find(digest) is None:
                missing += 1
                first = first or rows[place].where
        if not missing:
            return
        differing = self.circumstances.differences(now)
        told = f"what differs: {', '.join(differing)}" if differing else "it was written for other rows"
        what = f"{missing:,} of {len(rows):,} rows are not in {self.directory} (the first: {first}); {told}"
        instead = "Write a cache for these rows, or set what differs as it was."
        raise RequestError(Fault(where=self.where, what=what, instead=instead))

    def require_teacher(self, section: Model) -> None:
        """The cache was written by this one model. Raises RequestError that says who wrote it."""
        teachers: list[dict[str, Any]] = self.facts["teachers"]
        if len(teachers) == 1 and teachers[0]["digest"] == model_digest(section, file_digest):
            return
        names = " and ".join(one["name"] for one in teachers)
        what = f"{self.directory} was written by {names}, and {section.name} is not the same"
        instead = "Leave the teacher out (the cache stands for it), or write a cache with this one."
        raise RequestError(Fault(where=self.where, what=what, instead=instead))

    def _row(self, number: int) -> Arrays:
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self.shards[shard].row(number - int(self._starts[shard]))

    def _absent(self, named: str) -> RequestError:
        what = f"{self.directory} holds nothing of {named}"
        return RequestError(Fault(where=self.where, what=what, instead="Write a cache for these rows."))


_ANEW = "Write the cache anew: the command that made it, with --fresh."


def _reopened(directory: Path, where: str) -> CachedTeacher:
    return CachedTeacher(directory, where=where)
