"""The beginning of a file as rows, for who looks before reading: one reader per suffix, all with a limit in bytes.

A reader goes on after a fault, so that `check` can list several. A row that the limit cuts off is left out.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from alignkit.data.reading.columnar import COLUMNAR, BrokenFile, batches, columns_of, packed, unpacked
from alignkit.data.reading.compressed import (
    COMPRESSIONS,
    WHOLE,
    Damaged,
    TooLarge,
    is_compressed,
    plain_suffix,
    read_whole,
)
from alignkit.data.reading.faults import AGAIN, foreign, nul, undecodable, unreadable
from alignkit.data.reading.json_array import json_rows
from alignkit.data.reading.json_lines import BOM, jsonl_rows
from alignkit.data.reading.tables import header_fault, table_rows
from alignkit.data.rows import Row, Unreadable
from alignkit.errors import Fault, RequestError

Reader: TypeAlias = Callable[[Path, str, int], Iterator["Row | Fault"]]

LINES = (".jsonl", ".ndjson")
TABLES = {".csv": ",", ".tsv": "\t"}
"""The separator of each."""
TEXT_SUFFIXES = (".txt", ".md")
SUFFIXES = (*LINES, ".json", *TABLES, *TEXT_SUFFIXES, *COLUMNAR)
"""What is read; all but the columnar ones may be followed by .gz or .zst."""


def beginning(path: Path, name: str, limit: int | None) -> Iterator[Row | Unreadable]:
    """The rows within the first ``limit`` bytes of a file of any kind, unpacked if it is compressed; None: all of it.

    Of a columnar file that is larger than the limit only the columns are looked at.
    """
    suffix = plain_suffix(path)
    if suffix in COLUMNAR:
        yield from _columnar(path, name, limit)
        return
    try:
        data, cut = read_whole(path, limit)
    except Damaged as damage:
        yield unreadable(name, str(damage), AGAIN, rest=True)
        return
    except TooLarge:
        yield too_large(name, suffix)
        return
    if suffix in LINES:
        yield from jsonl_rows(data[: data.rfind(b"\n") + 1] if cut else data, name)
    elif suffix == ".json":
        yield from json_rows(data, name, cut)
    elif suffix in TABLES:
        yield from table_rows(io.BytesIO(data), name, TABLES[suffix], cut)
    else:
        yield from text_row(data, name, cut)


def shows_all(path: Path, limit: int) -> bool:
    """Whether the beginning holds every row: a text is one row, and what a compressed file holds is not known."""
    suffix = plain_suffix(path)
    return suffix in TEXT_SUFFIXES or (not is_compressed(path) and path.stat().st_size <= limit)


def text_row(data: bytes, name: str, cut: bool = False) -> Iterator[Row | Unreadable]:
    """The whole file is one document in a column `text`; none if there is nothing but white space."""
    if (fault := foreign(name, data[:8])) is not None:
        yield fault
        return
    data = data.removeprefix(BOM)
    if 0 in data:
        at = data.index(0)
        start = data.rfind(b"\n", 0, at) + 1
        raw = data[start : data.find(b"\n", at) if b"\n" in data[at:] else None].decode("utf-8", "replace")
        yield nul(f"{name} line {data.count(10, 0, at) + 1}", raw, raw.index("\0"))
        return
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if not cut or error.start < len(data) - 4:
            yield undecodable(data, name, error)
            return
        text = data[: error.start].decode("utf-8")
    if text.strip():
        yield Row({"text": text.replace("\r\n", "\n")}, name)


def too_large(name: str, suffix: str) -> Unreadable:
    """The fault of a file that would have to stand in memory."""
    what = f"is larger than {WHOLE / 1e9:g} GB, and {'an array' if suffix == '.json' else 'a text'} is read whole"
    instead = f"Convert it to JSONL, one row a line: jq -c '.[]' {name} > rows.jsonl."
    array = suffix == ".json"
    return unreadable(name, what, instead if array else "Cut it into several files, or make it JSONL.", rest=array)


def broken_file(path: Path, name: str, error: BrokenFile) -> Unreadable:
    """The fault of a columnar file that is not sound."""
    kind = "Parquet" if path.suffix.lower() == ".parquet" else "Arrow"
    return unreadable(name, f"cannot be read as {kind} ({error})", AGAIN, rest=True)


def _columnar(path: Path, name: str, limit: int | None) -> Iterator[Row | Unreadable]:
    try:
        fault = header_fault(name, columns_of(path))
        if fault is not None:
            yield fault
        elif limit is None or path.stat().st_size <= limit:
            row = 1
            for batch in batches(path, 1_000_000):
                yield from unpacked(packed(batch), name, row)
                row += batch.num_rows
    except BrokenFile as error:
        yield broken_file(path, name, error)


def _reader(path: Path, name: str, limit: int) -> Iterator[Row | Fault]:
    try:
        for row in beginning(path, name, limit):
            yield row.fault if isinstance(row, Unreadable) else row
    except RequestError as error:  # it cannot be opened
        yield from error.faults


READERS: dict[str, Reader] = dict.fromkeys((*SUFFIXES, *COMPRESSIONS), _reader)
"""Which reader the last suffix of a file's name asks for."""
