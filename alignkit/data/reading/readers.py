"""One reader per kind of file: bytes go in, rows or faults come out, each with the line it stands in.

A reader goes on after a fault, so that `check` can list several; whoever trains stops at the first (see sources.py).
Readers take a `limit` in bytes: with one, only that much is read and a row that is cut off there is left out.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from alignkit.data.formats.messages import kind_of, shown
from alignkit.data.rows import Row
from alignkit.errors import Fault

Reader: TypeAlias = Callable[[Path, str, "int | None"], Iterator[Row | Fault]]

BOM = b"\xef\xbb\xbf"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"holds {name}, which is no JSON value")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def read_jsonl(path: Path, name: str, limit: int | None = None) -> Iterator[Row | Fault]:
    """One JSON object a line; blank lines, a BOM and CRLF are let pass."""
    with path.open("rb") as file:
        left = limit
        for number, line in enumerate(file if left is None else _lines(file, left), 1):
            where = f"{name} line {number}"
            if number == 1:
                line = line.removeprefix(BOM)
            if not line.strip():
                continue
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                yield _not_utf8(where, error)
                continue
            yield _object(text.rstrip("\r\n"), where)


def read_json(path: Path, name: str, limit: int | None = None) -> Iterator[Row | Fault]:
    """A JSON array of objects, read element by element so that a fault has its line; or one JSON object a line."""
    with path.open("rb") as file:
        data = file.read() if limit is None else file.read(limit)
        cut = limit is not None and bool(file.read(1))
    data = data.removeprefix(BOM)
    if not data.lstrip().startswith(b"["):
        yield from read_jsonl(path, name, limit)
        return
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if not cut or error.start < len(data) - 4:
            yield _not_utf8(f"{name} line {data[: error.start].count(10) + 1}", error)
            return
        text = data[: error.start].decode("utf-8")
    yield from _elements(text, name, cut)


def read_csv(path: Path, name: str, limit: int | None = None, *, delimiter: str = ",") -> Iterator[Row | Fault]:
    """A table whose first line names the columns; every cell is text."""
    with path.open("rb") as file:
        data = file.read() if limit is None else file.read(limit)
        cut = limit is not None and bool(file.read(1))
    try:
        text = data.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        if not cut or error.start < len(data) - 4:
            yield _not_utf8(f"{name} line {data[: error.start].count(10) + 1}", error)
            return
        text = data[: error.start].decode("utf-8")
    csv.field_size_limit(1 << 30)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found: list[Row | Fault] = []
    start = 1
    try:
        columns = next(lines, [])
        if len(set(columns)) < len(columns):
            twice = next(column for column in columns if columns.count(column) > 1)
            yield Fault(where=f"{name} line 1", what=f"the column `{twice}` stands there twice", instead="Rename one.")
            return
        start = lines.line_num + 1
        for cells in lines:
            where, start = f"{name} line {start}", lines.line_num + 1
            if not cells:
                continue
            if len(cells) != len(columns):
                what = f"has {len(cells)} cells, and the first line names {len(columns)} columns"
                found.append(Fault(where=where, what=what, instead="Put cells that hold the separator in quotes."))
            else:
                found.append(Row(dict(zip(columns, cells, strict=True)), where))
    except csv.Error as error:
        if not cut:
            found.append(Fault(where=f"{name} line {start}", what=f"is not a valid table row ({error})"))
            cut = False
    yield from found[:-1] if cut else found


def read_text(path: Path, name: str, limit: int | None = None) -> Iterator[Row | Fault]:
    """The whole file is one document in a column `text`."""
    with path.open("rb") as file:
        data = file.read() if limit is None else file.read(limit)
        cut = limit is not None and bool(file.read(1))
    data = data.removeprefix(BOM)
    if 0 in data:
        line = data[: data.index(0)].count(10) + 1
        yield Fault(where=f"{name} line {line}", what="holds a NUL byte, so this is no text", instead="Leave it out.")
        return
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if not cut or error.start < len(data) - 4:
            yield _not_utf8(f"{name} line {data[: error.start].count(10) + 1}", error)
            return
        text = data[: error.start].decode("utf-8")
    if text.strip():
        yield Row({"text": text.replace("\r\n", "\n")}, name)


def read_parquet(path: Path, name: str, limit: int | None = None) -> Iterator[Row | Fault]:
    """Rows of a Parquet file. With a limit, the first rows of the first batch only, if the file is small enough."""
    try:
        import pyarrow as arrow
        from pyarrow import parquet

        with parquet.ParquetFile(path) as file:
            number = 0
            if limit is not None and path.stat().st_size > limit:
                return  # pages are compressed together: a part of the file cannot be read row by row
            for batch in file.iter_batches(batch_size=1000):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(values, f"{name} row {number}")
    except (arrow.ArrowException, OSError) as error:
        yield Fault(
            where=name,
            what=f"cannot be read as Parquet ({str(error).splitlines()[0]})",
            instead="Copy the file again: it may be incomplete.",
        )


def _read_tsv(path: Path, name: str, limit: int | None = None) -> Iterator[Row | Fault]:
    return read_csv(path, name, limit, delimiter="\t")


READERS: dict[str, Reader] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": _read_tsv,
    ".txt": read_text,
    ".md": read_text,
    ".parquet": read_parquet,
}
"""Which reader a file's suffix asks for."""


def _lines(file: Any, limit: int) -> Iterator[bytes]:
    """The whole lines within the first `limit` bytes; the file's last line counts even without a line break."""
    data: bytes = file.read(limit)
    if file.read(1):
        data = data[: data.rfind(b"\n") + 1]
    yield from data.split(b"\n")


def _object(text: str, where: str) -> Row | Fault:
    try:
        values = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        return Fault(
            where=where,
            what=f"is not valid JSON ({_reason(error)} at column {error.colno}): {_around(text, error.pos)}",
            instead="Mend the line or remove it.",
        )
    except ValueError as error:
        return Fault(where=where, what=str(error), instead="Write null or text, or remove the line.")
    except RecursionError:
        return Fault(where=where, what="is nested too deeply to be a row", instead="Remove the line.")
    return _row(values, where)


def _row(values: Any, where: str) -> Row | Fault:
    if isinstance(values, dict):
        return Row(values, where)
    return Fault(
        where=where,
        what=f"is {kind_of(values)}, and must be a JSON object with named columns: {shown(values)}",
        instead='Write {"text": …} or another format.',
    )


def _elements(text: str, name: str, cut: bool) -> Iterator[Row | Fault]:
    """The elements of a JSON array. A broken one ends the reading: where the next begins cannot be known."""
    decode = _DECODER.raw_decode
    at, line, counted = text.index("[") + 1, 1, 0
    first = True
    while True:
        at = _skip_space(text, at)
        if at < len(text) and text[at] == "," and not first:
            at = _skip_space(text, at + 1)
        elif at < len(text) and text[at] == "]":
            if text[at + 1 :].strip():
                where = f"{name} line {text.count(chr(10), 0, at) + 1}"
                yield Fault(where=where, what="something follows the end of the array", instead="Remove it.")
            return
        elif not first and at < len(text):
            where = f"{name} line {text.count(chr(10), 0, at) + 1}"
            yield Fault(where=where, what=f"a comma is missing: {_around(text, at)}", instead="Mend the file.")
            return
        line += text.count("\n", counted, at)
        counted = at
        where = f"{name} line {line}"
        try:
            values, at = decode(text, at)
        except json.JSONDecodeError as error:
            if not cut:
                where = f"{name} line {error.lineno}"
                what = f"is not valid JSON ({_reason(error)} at column {error.colno}): {_around(text, error.pos)}"
                yield Fault(where=where, what=what, instead="Mend the file from there on.")
            return
        except ValueError as error:
            yield Fault(where=where, what=str(error), instead="Write null or text.")
            return
        except RecursionError:
            yield Fault(where=where, what="is nested too deeply to be a row", instead="Remove the row.")
            return
        if cut and at >= len(text):
            return
        yield _row(values, where)
        first = False


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _reason(error: json.JSONDecodeError) -> str:
    return error.msg[:1].lower() + error.msg[1:].removesuffix(" starting at").removesuffix(" at")


def _around(text: str, at: int) -> str:
    """The neighbourhood of a fault, shortened."""
    start = max(0, at - 30)
    piece = " ".join(text[start : at + 30].split())
    return f"`{'…' if start else ''}{piece}{'…' if at + 30 < len(text.rstrip()) else ''}`"


def _not_utf8(where: str, error: UnicodeDecodeError) -> Fault:
    byte = error.object[error.start]
    return Fault(
        where=where,
        what=f"is not UTF-8 (byte 0x{byte:02x} at position {error.start + 1})",
        instead="Save the file as UTF-8 (iconv -f latin1 -t utf-8).",
    )
