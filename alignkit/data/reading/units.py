"""The kinds of parts. Each can be pickled, and says its own rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from alignkit.data.reading.columnar import unpacked
from alignkit.data.reading.compressed import Damaged, TooLarge, read_whole
from alignkit.data.reading.faults import AGAIN, unreadable
from alignkit.data.reading.json_lines import LONGEST_LINE, jsonl_rows, too_long
from alignkit.data.reading.readers import text_row, too_large
from alignkit.data.rows import Row, Unreadable
from alignkit.errors import Fault, RequestError

AT_ONCE = 64_000_000
"""Bytes of lines that are decoded together; more than a part's only when one line is that long."""


class Part(Protocol):
    """A unit of reading. ``size``: its bytes or characters, about."""

    @property
    def size(self) -> int: ...

    def rows(self) -> Iterator[Row | Unreadable]:
        """The rows and what is no row, in the order of the source."""


@dataclass(frozen=True, slots=True)
class LineRange:
    """Whole lines of a JSONL file: the bytes from ``start`` to ``stop``, the first line being number ``line``."""

    path: str
    start: int
    stop: int
    line: int
    name: str

    @property
    def size(self) -> int:
        return self.stop - self.start

    def rows(self) -> Iterator[Row | Unreadable]:
        with Path(self.path).open("rb") as file:
            file.seek(self.start)
            if self.size <= AT_ONCE:
                data = file.read(self.size)
                if len(data) < self.size:
                    raise self._changed()
                yield from jsonl_rows(data, self.name, self.line)
            else:
                yield from self._one_by_one(file)

    def _one_by_one(self, file: BinaryIO) -> Iterator[Row | Unreadable]:
        """Some line of these is very long: one line in memory at a time, and none that is too long for a row."""
        left = self.size
        for number in count(self.line):
            if left <= 0:
                return
            line = file.readline(min(left, LONGEST_LINE))
            length = len(line)
            if length == LONGEST_LINE and length < left and not line.endswith(b"\n"):
                while length < left and not line.endswith(b"\n"):
                    line = file.readline(min(left - length, AT_ONCE))
                    length += len(line)
                    if not line:
                        raise self._changed()
                yield too_long(self.name, number, length)
            elif line:
                yield from jsonl_rows(line.removesuffix(b"\n"), self.name, number)
            else:
                raise self._changed()
            left -= length

    def _changed(self) -> RequestError:
        what = "became shorter while it was read"
        return RequestError(Fault(where=self.name, what=what, instead="Start again when nothing writes to it."))


@dataclass(frozen=True, slots=True)
class LineBlock:
    """Whole lines of JSONL that were unpacked already."""

    data: bytes
    line: int
    name: str

    @property
    def size(self) -> int:
        return len(self.data)

    def rows(self) -> Iterator[Row | Unreadable]:
        return jsonl_rows(self.data, self.name, self.line)


@dataclass(frozen=True, slots=True)
class Texts:
    """Text files, each of which is one row."""

    paths: tuple[str, ...]
    size: int

    def rows(self) -> Iterator[Row | Unreadable]:
        for path in self.paths:
            try:
                data, _ = read_whole(Path(path))
            except Damaged as damage:
                yield unreadable(path, str(damage), AGAIN)
            except TooLarge:
                yield too_large(path, ".txt")
            else:
                yield from text_row(data, path)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows as Arrow's bytes, the first being number ``row``."""

    data: bytes
    row: int
    name: str

    @property
    def size(self) -> int:
        return len(self.data)

    def rows(self) -> Iterator[Row | Unreadable]:
        return unpacked(self.data, self.name, self.row)


@dataclass(frozen=True, slots=True)
class Ready:
    """Rows that had to be read to find out where they end: of a table, a JSON array, a generator."""

    found: tuple[tuple[dict[str, Any], str] | Unreadable, ...]
    size: int

    def rows(self) -> Iterator[Row | Unreadable]:
        for found in self.found:
            yield found if isinstance(found, Unreadable) else Row(*found)


def bundles(rows: Iterable[Row | Unreadable], block: int) -> Iterator[Ready]:
    """Rows in parts of about ``block`` characters."""
    held: list[tuple[dict[str, Any], str] | Unreadable] = []
    size = 0
    for row in rows:
        if isinstance(row, Unreadable):
            held.append(row)
            size += len(row.raw) + 100
        else:
            held.append((row.values, row.where))
            size += _size(row.values) + 100
        if size >= block:
            yield Ready(tuple(held), size)
            held, size = [], 0
    if held:
        yield Ready(tuple(held), size)


def _size(value: Any) -> int:
    """Characters of text in a value, about."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values())) + 10 * len(value)
    return sum(map(_size, value)) if isinstance(value, list) else 10
