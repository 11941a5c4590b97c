"""Documents into a clean file of one format, which reads back as the same documents.

JSONL (`.jsonl`, `.jsonl.gz`) or Parquet (`.parquet`), by the path's suffix. The file appears whole or not at all: it is
written beside its place and then renamed. What a format cannot say is a fault that names the row, never left out.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, TypeAlias

from alignkit.data.formats.cells import bad
from alignkit.data.formats.spelling import SPELLINGS
from alignkit.data.rows import Document, Kind
from alignkit.errors import Fault, RequestError

__all__ = ["FORMATS", "kind_of_format", "write", "writing_faults"]

Spelled: TypeAlias = dict[str, Any]

FORMATS = tuple(SPELLINGS)
"""The formats that can be written."""
SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
BATCH = 2000
"""Rows of a Parquet row group."""


def kind_of_format(format: str) -> Kind:
    """The kind of document that a format holds."""
    return SPELLINGS[format].kind


def writing_faults(path: Path | str, format: str) -> list[Fault]:
    """What is wrong with a target whatever the rows are."""
    faults = []
    if format not in SPELLINGS:
        what = f"there is no format `{format}` to write"
        faults.append(Fault(where="format", what=what, instead=f"Formats: {', '.join(FORMATS)}."))
    if not str(path).endswith(SUFFIXES):
        what = "its suffix says no kind of file that can be written"
        faults.append(Fault(where=str(path), what=what, instead=f"Write one of {', '.join(SUFFIXES)}."))
    return faults


def write(documents: Iterable[Document], path: Path | str, format: str = "messages") -> int:
    """Write documents to a file, in their order; returns how many rows were written.

    Raises RequestError: an unknown format or suffix, a document that the format cannot say (named by its row), a place
    that cannot be written to. Nothing is left behind then, and a file that was there stays as it was.
    """
    path = Path(path)
    faults = writing_faults(path, format)
    if faults:
        raise RequestError(faults)
    spell = SPELLINGS[format].spell
    rows = _uniform((document.where, spell(document)) for document in documents)
    with _in_place(path) as unfinished:
        if path.suffix == ".parquet":
            return _write_parquet(rows, unfinished)
        return _write_jsonl(rows, unfinished, compress=path.suffix == ".gz")


def _uniform(rows: Iterator[tuple[str, Spelled]]) -> Iterator[tuple[str, Spelled]]:
    """The rows, as long as their prompts are all messages or all text: a file of both would be read as one of them."""
    first: tuple[str, str] | None = None
    for where, row in rows:
        if "prompt" in row:
            form = "messages" if isinstance(row["prompt"], list) else "plain text without a template"
            first = first or (form, where)
            if form != first[0]:
                raise bad(where, f"holds {form}, and {first[1]} holds {first[0]}", "Write two files.")
        yield where, row


@contextmanager
def _in_place(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, renamed to it when all went well and removed when not."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        what = f"cannot be written: {error.strerror or error}"
        raise RequestError(Fault(where=str(path), what=what, instead="Choose another place.")) from None


def _write_jsonl(rows: Iterator[tuple[str, Spelled]], path: Path, *, compress: bool) -> int:
    count = 0
    with path.open("wb") as file, _compressed(file, compress) as out:
        for where, row in rows:
            out.write(_utf8(json.dumps(row, ensure_ascii=False), where) + b"\n")
            count += 1
    return count


@contextmanager
def _compressed(file: IO[bytes], compress: bool) -> Iterator[IO[bytes]]:
    """The file itself, or gzip around it: without a name and a time, so that the same rows are the same bytes."""
    if not compress:
        yield file
        return
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
        yield packed  # type: ignore[misc]


def _utf8(text: str, where: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        what = f"holds half of a surrogate pair (U+{ord(text[error.start]):04X}), which is no text"
        raise bad(where, what, "Mend the row.") from None


def _write_parquet(rows: Iterator[tuple[str, Spelled]], path: Path) -> int:
    """Row groups of BATCH rows with one schema, whatever columns the first rows leave out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = next(rows, None)
    if first is None:
        raise RequestError(Fault(where=str(path), what="there is no row to write", instead="Give data with rows."))
    schema = _schema(first[1])
    rows = chain([first], rows)
    count = 0
    with pq.ParquetWriter(path, schema) as out:
        while batch := list(islice(rows, BATCH)):
            values = [_parquet_row(row, where) for where, row in batch]
            out.write_table(pa.Table.from_pylist(values, schema=schema))
            count += len(batch)
    return count


def _parquet_row(row: Spelled, where: str) -> Spelled:
    """Tools as JSON text: schemas of different functions have no common columns."""
    _utf8(json.dumps(row, ensure_ascii=False), where)
    return {**row, "tools": json.dumps(row["tools"], ensure_ascii=False)} if "tools" in row else row


def _schema(row: Spelled) -> Any:
    """The columns of a format, those that a row may leave out included."""
    import pyarrow as pa

    text = pa.string()
    function = pa.struct([("name", text), ("arguments", text)])
    call = pa.struct([("id", text), ("type", text), ("function", function)])
    message = pa.struct(
        [
            ("role", text),
            ("content", text),
            ("reasoning_content", text),
            ("name", text),
            ("tool_calls", pa.list_(call)),
            ("tool_call_id", text),
            ("weight", pa.float64()),
        ]
    )
    turns = pa.list_(message)
    beside = [("tools", text), ("answer", text)]
    if "messages" in row:
        return pa.schema([("messages", turns), *beside])
    if "conversations" in row:
        return pa.schema([("conversations", pa.list_(pa.struct([("from", text), ("value", text)]))), *beside])
    if "instruction" in row:
        named = [("system", text), ("instruction", text), ("input", text), ("output", text)]
        return pa.schema([*named, ("history", pa.list_(pa.list_(text))), ("answer", text)])
    if "text" in row:
        return pa.schema([("text", text)])
    chat = isinstance(row["prompt"], list)
    said = turns if chat else text
    if "chosen" in row:
        scores = [("chosen_score", pa.float64()), ("rejected_score", pa.float64())]
        pair = [("prompt", said), ("chosen", said), ("rejected", said), *scores]
        return pa.schema([*pair, ("tools", text)] if chat else pair)
    if "label" in row:
        return pa.schema([("prompt", said), ("completion", said), ("label", pa.bool_())])
    return pa.schema([("prompt", said), ("completion", said), *(beside if chat else beside[1:])])
