"""A place cut into parts: units of reading that are made one after the other, in row order, and that another process
can read. Whoever makes them holds about one part in memory, however large the file."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from alignkit.data.reading.columnar import COLUMNAR, BrokenFile, batches, columns_of, packed
from alignkit.data.reading.compressed import (
    Damaged,
    TooLarge,
    cannot_open,
    is_compressed,
    open_bytes,
    plain_suffix,
    read_whole,
)
from alignkit.data.reading.faults import AGAIN, unreadable
from alignkit.data.reading.hub import hub_batches
from alignkit.data.reading.json_array import json_rows
from alignkit.data.reading.json_lines import BOM
from alignkit.data.reading.line_parts import line_ranges, unpacked_lines
from alignkit.data.reading.places import Place
from alignkit.data.reading.readers import TABLES, TEXT_SUFFIXES, broken_file, too_large
from alignkit.data.reading.schemas import Schemas
from alignkit.data.reading.tables import table_rows
from alignkit.data.reading.units import Batch, Part, Ready, Texts, bundles
from alignkit.data.rows import Row, Unreadable
from alignkit.errors import Fault, RequestError

__all__ = ["BLOCK", "Part", "parts", "read", "read_part"]

BLOCK = 4_000_000
"""Bytes of a part, about."""
GENERATED = ("train", "heldout")
"""The splits of every generator."""


def parts(
    place: Place,
    *,
    split: str = "train",
    config: str | None = None,
    revision: str | None = None,
    rows: int | None = None,
    block: int = BLOCK,
) -> Iterator[Part]:
    """The parts of a place, in row order, each made when it is asked for.

    Args:
        place: what `locate` gave.
        split: of a hub data set, of a directory made by save_to_disk, or of a generator.
        config, revision: of a hub data set.
        rows: how many a generator makes.
        block: bytes of a part, about. One row is never cut, so a part may be as large as its longest row.

    Raises:
        RequestError: a file that cannot be opened, a hub data set that cannot be had, a split that is not there.
            What is wrong with the contents of a file comes as Unreadable out of the parts.
    """
    if place.kind == "files":
        yield from _files(files_of(place, split), block)
    elif place.kind == "hub":
        yield from _numbered(hub_batches(place.name, split, config, revision, block), f"{place.name} {split}")
    else:
        name = place.name.removeprefix("generated:")
        if split not in GENERATED:
            what = f"{place.name} has no split `{split}`"
            raise RequestError(Fault(where="data.split", what=what, instead=f"There are: {', '.join(GENERATED)}."))
        made = importlib.import_module(f"alignkit.data.{name}.generate").generate(rows, split)
        yield from bundles((Row(values, f"{name} {split} row {n}") for n, values in enumerate(made, 1)), block)


def read_part(part: Part) -> Iterator[Row | Unreadable]:
    """The rows of a part and what is no row, in the order of the source."""
    return part.rows()


def read(
    place: Place,
    *,
    split: str = "train",
    config: str | None = None,
    revision: str | None = None,
    rows: int | None = None,
) -> Iterator[Row]:
    """All rows of a place, in order, with the arguments of `parts`. Raises RequestError at the first fault."""
    for part in parts(place, split=split, config=config, revision=revision, rows=rows):
        for row in read_part(part):
            if isinstance(row, Unreadable):
                raise RequestError(row.fault)
            yield row


def files_of(place: Place, split: str) -> tuple[Path, ...]:
    """The files that are read for a split: all of them, unless the place keeps its splits apart."""
    if not place.splits:
        return place.files
    files = dict(place.splits).get(split)
    if files is None:
        what = f"{place.name} has no split `{split}`"
        raise RequestError(Fault(where="data.split", what=what, instead=f"There are: {', '.join(dict(place.splits))}."))
    return files


def _files(files: Iterable[Path], block: int) -> Iterator[Part]:
    schemas = Schemas()
    texts: list[Path] = []
    for path in files:
        if plain_suffix(path) in TEXT_SUFFIXES:
            texts.append(path)
            if sum(file.stat().st_size for file in texts) >= block or len(texts) >= 1000:
                yield _texts(texts)
                texts = []
            continue
        if texts:
            yield _texts(texts)
            texts = []
        try:
            yield from _file(path, str(path), schemas, block)
        except OSError as error:
            raise cannot_open(path, error) from error
    if texts:
        yield _texts(texts)


def _texts(paths: list[Path]) -> Texts:
    return Texts(tuple(map(str, paths)), sum(path.stat().st_size for path in paths))


def _file(path: Path, name: str, schemas: Schemas, block: int) -> Iterator[Part]:
    suffix = plain_suffix(path)
    if suffix in COLUMNAR:
        yield from _columnar(path, name, schemas, block)
    elif suffix in TABLES:
        yield from bundles(_table(path, name, schemas), block)
    elif suffix == ".json" and not _holds_lines(path, block):
        yield from bundles(_whole_json(path, name), block)
    else:
        yield from (unpacked_lines if is_compressed(path) else line_ranges)(path, name, block)


def _columnar(path: Path, name: str, schemas: Schemas, block: int) -> Iterator[Part]:
    try:
        fault = schemas.fault(name, columns_of(path))
        if fault is None:
            yield from _numbered(batches(path, block), name)
    except BrokenFile as error:
        fault = broken_file(path, name, error)
    if fault is not None:
        yield Ready((fault,), 0)


def _numbered(tables: Iterable, name: str) -> Iterator[Part]:
    row = 1
    for table in tables:
        yield Batch(packed(table), row, name)
        row += table.num_rows


def _table(path: Path, name: str, schemas: Schemas) -> Iterator[Row | Unreadable]:
    with open_bytes(path) as stream:
        seen = False
        for row in table_rows(stream, name, TABLES[plain_suffix(path)]):
            if not seen and isinstance(row, Row):
                seen = True
                if (fault := schemas.fault(name, list(row.values))) is not None:
                    yield fault
                    return
            yield row


def _whole_json(path: Path, name: str) -> Iterator[Row | Unreadable]:
    try:
        data, _ = read_whole(path)
    except Damaged as damage:
        yield unreadable(name, str(damage), AGAIN, rest=True)
    except TooLarge:
        yield too_large(name, ".json")
    else:
        yield from json_rows(data, name)


def _holds_lines(path: Path, block: int) -> bool:
    """Whether a .json file is large and holds one object a line: it is then read like JSONL."""
    if path.stat().st_size <= block:
        return False
    try:
        with open_bytes(path) as file:
            start = file.read(1 << 16).removeprefix(BOM).lstrip()
    except Damaged:
        return False
    first, end, _ = start.partition(b"\n")
    return first.startswith(b"{") and (not end or first.rstrip().endswith(b"}"))
