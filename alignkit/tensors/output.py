"""Safetensors files written a chunk at a time, in any order, by several threads, and resumed after a kill."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from alignkit.errors import RunError
from alignkit.tensors.checkpoint import WEIGHTS
from alignkit.tensors.digest import RunningDigest
from alignkit.tensors.header import TensorInfo
from alignkit.tensors.jobs import Values
from alignkit.tensors.journal import Journal
from alignkit.tensors.layout import Shard, TensorSpec, index_bytes, lay_out
from alignkit.tensors.numbers import WIDTHS, from_float32

SHARD_BYTES = 5_000_000_000
"""Data in one file at most, where nobody asks for another size."""


class Output:
    """A checkpoint in the making.

    The files stand in ``directory``, a temporary one beside ``target`` whose name stays the same, with their headers
    and sizes from the start. Beside them lies a journal of the tensors that are finished. An Output for the same
    target, tensors and ``plan`` goes on from there (``done``); any other begins anew. The bytes do not depend on who
    writes which chunk when, nor on interruptions.

    Use it as a context manager: ``run`` the jobs, ``finish``, put further files into ``directory``, ``publish``.
    One process at a time: the caller holds the run's lock.
    """

    def __init__(
        self,
        target: str | os.PathLike[str],
        specs: Sequence[TensorSpec],
        *,
        plan: str = "",
        shard_bytes: int = SHARD_BYTES,
        weights: str = WEIGHTS,
    ) -> None:
        """``plan`` is a digest of whatever decides the values; ``weights`` the name of a file in one piece.

        Raises ValueError for a tensor given twice, RunError when the files cannot be made.
        """
        self.target = Path(target)
        # ".tmp-" in a name keeps it out of the listings and digests of runs.
        self.directory = self.target.with_name(f".{self.target.name}.tmp-tensors")
        self.specs = {spec.name: spec for spec in specs}
        self._shards = lay_out(specs, shard_bytes, weights)
        self._weights = weights
        self._places: dict[str, TensorInfo] = {t.name: t for shard in self._shards for t in shard.tensors}
        self._descriptors: dict[str, int] = {}
        self._digests: dict[str, RunningDigest] = {}
        layout = [(shard.file, shard.header[8:].decode()) for shard in self._shards]
        digest = hashlib.sha256(json.dumps([plan, layout]).encode()).hexdigest()
        self._journal = Journal(self.target.with_name(f".{self.target.name}.tmp-journal"), digest, self._sync)
        with _told(self.directory):
            if self._journal.matches() and self._is_whole():
                self._open()
                self._journal.resume()
            else:
                self._make()
        for place in (self._places[name] for name in self._journal.done):
            self._digests[place.file].written(place.offset, place.nbytes)

    @property
    def done(self) -> set[str]:
        """Names of the tensors that are finished and safely on disk."""
        return self._journal.done

    @property
    def nonfinite(self) -> set[str]:
        """Names of the finished tensors that hold NaN or infinite values."""
        return self._journal.nonfinite

    def write(self, name: str, start: int, values: Values) -> None:
        """Elements ``start`` and on of a tensor, (n,) float32, rounded to its dtype. Raises RunError."""
        self.write_raw(name, start, from_float32(values, self.specs[name].dtype))

    def write_raw(self, name: str, start: int, data: bytes | memoryview) -> None:
        """The same as bytes of the tensor's dtype, which must not change afterwards. Raises RunError."""
        place = self._places[name]
        offset = place.offset + start * WIDTHS[place.dtype]
        if start < 0 or offset + len(data) > place.offset + place.nbytes:
            raise IndexError(f"{len(data)} bytes from element {start} on do not fit into {name} {place.shape}")
        with _told(self.directory):
            self._write(self._descriptors[place.file], data, offset)
        self._digests[place.file].offer(offset, data)

    def complete(self, name: str, *, finite: bool = True) -> None:
        """All of a tensor has been written; ``finite`` says whether all its values are. Raises RunError."""
        self._journal.add(name, finite)

    def finish(self) -> dict[str, str]:
        """Make everything durable, write the index, and give the SHA-256 of every file (64 hex digits).

        Raises ValueError when a tensor is not complete, RunError when the disk fails.
        """
        self._journal.close()
        if missing := self.specs.keys() - self.done:
            raise ValueError(f"{len(missing)} tensors are not written, {min(missing)} among them")
        with _told(self.directory):
            for descriptor in self._descriptors.values():
                os.fsync(descriptor)
            with ThreadPoolExecutor(min(4, len(self._shards))) as pool:
                digests = dict(pool.map(self._digest, self._shards))
            if len(self._shards) > 1:
                data = index_bytes(self._shards)
                index = f"{self._weights}.index.json"
                _write_file(self.directory / index, data)
                digests[index] = hashlib.sha256(data).hexdigest()
            _sync_directory(self.directory)
        return digests

    def publish(self) -> None:
        """Give the finished directory its name; the journal goes. Raises RunError, also when the name is taken."""
        self.close()
        with _told(self.target):
            self.directory.rename(self.target)
            _sync_directory(self.target.parent)
            self._journal.path.unlink()

    def close(self) -> None:
        """Note down what is finished and close the files; a later Output goes on. Calling it again does nothing."""
        try:
            self._journal.close()
        finally:
            while self._descriptors:
                os.close(self._descriptors.popitem()[1])

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            with suppress(RunError):  # the error that is on its way says more
                self.close()

    def _is_whole(self) -> bool:
        """Whether every file is there with the header and the size that it should have."""
        for shard in self._shards:
            try:
                with (self.directory / shard.file).open("rb") as file:
                    same = file.read(len(shard.header)) == shard.header
                    if not same or os.fstat(file.fileno()).st_size != shard.size:
                        return False
            except OSError:
                return False
        return True

    def _make(self) -> None:
        """Begin anew: empty files with their headers, and then the journal that says so."""
        self._journal.path.unlink(missing_ok=True)
        if self.directory.exists():
            shutil.rmtree(self.directory)
        self.directory.mkdir(parents=True)
        for shard in self._shards:
            _write_file(self.directory / shard.file, shard.header, size=shard.size)
        _sync_directory(self.directory)
        self._open()
        self._journal.begin()
        _sync_directory(self.directory.parent)

    def _open(self) -> None:
        for shard in self._shards:
            descriptor = os.open(self.directory / shard.file, os.O_RDWR | os.O_CLOEXEC)
            self._descriptors[shard.file] = descriptor
            self._digests[shard.file] = RunningDigest(descriptor)
            self._digests[shard.file].offer(0, shard.header)

    def _sync(self, names: Iterable[str]) -> None:
        for file in sorted({self._places[name].file for name in names}):
            os.fsync(self._descriptors[file])

    def _digest(self, shard: Shard) -> tuple[str, str]:
        return shard.file, self._digests[shard.file].finish(shard.size)

    @staticmethod
    def _write(descriptor: int, data: bytes | memoryview, offset: int) -> None:
        rest = memoryview(data)
        while rest:
            written = os.pwrite(descriptor, rest, offset)
            rest, offset = rest[written:], offset + written


@contextmanager
def _told(place: Path) -> Iterator[None]:
    """Failures of the system as a sentence."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{place} could not be written: {error.strerror or error}.") from error


def _write_file(path: Path, data: bytes, size: int | None = None) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        if size is not None:
            os.ftruncate(file.fileno(), size)
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
