"""Parquet and Arrow files as a stream of record batches, and a record batch as rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alignkit.console.bounds import TooMuchError, bounded
from alignkit.data.reading.compressed import RATIO, most_unpacked
from alignkit.data.reading.faults import unreadable
from alignkit.data.rows import Row, Unreadable

COLUMNAR = (".parquet", ".arrow", ".feather")
MOST_ROWS = 10_000
"""Rows of a batch at most: sizes told by a file are those of its encoding, and may be far below those of the rows."""


LARGEST = 4_000_000_000
"""Bytes by which the process may grow while a batch is read."""


class BrokenFile(Exception):
    """A file that is no sound Parquet or Arrow file; the text says why."""


def columns_of(path: Path) -> list[str]:
    """The names of the columns, of which two may be the same. Raises BrokenFile, OSError."""
    with _guard(), _open(path) as file:
        return list((file.schema_arrow if path.suffix.lower() == ".parquet" else file.schema).names)


def batches(path: Path, block: int) -> Iterator[Any]:
    """Record batches of about ``block`` bytes, in order, one in memory at a time. Raises BrokenFile, OSError.

    A text of a dictionary may stand in every row, so that a small file holds batches that no memory does.
    """
    found = _batches(path, block)
    given, limit_of_all = 0, most_unpacked(path.stat().st_size)
    while True:
        try:
            with bounded(None, LARGEST):
                batch = next(found, None)
        except TooMuchError as limit:
            raise BrokenFile(f"a part of it {limit}") from None
        if batch is None:
            return
        given += batch.nbytes
        if given > limit_of_all:
            raise BrokenFile(f"it unpacks to more than {RATIO} times its size, as a bomb does")
        yield batch


def _batches(path: Path, block: int) -> Iterator[Any]:
    """One thread: a pool of Arrow's threads does not survive a fork."""
    with _guard(), _open(path) as file:
        if path.suffix.lower() == ".parquet":
            for group in range(file.num_row_groups):
                told = file.metadata.row_group(group)
                wanted = _rows_of(block, told.total_byte_size, told.num_rows)
                yield from file.iter_batches(batch_size=wanted, row_groups=[group], use_threads=False)
        elif hasattr(file, "num_record_batches"):
            for number in range(file.num_record_batches):
                yield from slices(file.get_batch(number), block)
        else:
            for batch in file:
                yield from slices(batch, block)


def slices(batch: Any, block: int) -> Iterator[Any]:
    """A record batch, or a table, in pieces of about ``block`` bytes."""
    wanted = _rows_of(block, batch.nbytes, batch.num_rows)
    for start in range(0, batch.num_rows, wanted):
        yield batch.slice(start, wanted)


def packed(batch: Any) -> bytes:
    """A record batch or a table as bytes, without what its slice leaves out of its buffers."""
    import pyarrow as arrow

    sink = arrow.BufferOutputStream()
    with arrow.ipc.new_stream(sink, batch.schema) as writer:
        writer.write(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def unpacked(data: bytes, name: str, row: int) -> Iterator[Row | Unreadable]:
    """The rows of what `packed` made; the first is number ``row``. null is None, NaN stays NaN.

    A null within an object is left out: Arrow gives all objects of a column the same keys, so that a call of one tool
    has the arguments of every other, and a template would write them.
    """
    import pyarrow as arrow

    with arrow.ipc.open_stream(data) as reader:
        for batch in reader:
            try:
                rows = batch.to_pylist()
            except (ValueError, OverflowError, arrow.ArrowException):
                rows = None
            if rows is not None:
                for number, values in enumerate(rows, row):
                    yield Row(_own_keys(values), f"{name} row {number}")
            else:
                for index in range(batch.num_rows):
                    yield _one(batch.slice(index, 1), f"{name} row {row + index}")
            row += batch.num_rows


def _one(batch: Any, where: str) -> Row | Unreadable:
    """One row of a batch in which some value does not become a Python value."""
    values = {}
    for name in batch.schema.names:
        try:
            values[name] = batch.column(name)[0].as_py()
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            what = f"the column `{name}` is not UTF-8 (byte 0x{byte:02x} at position {error.start + 1})"
            return unreadable(where, what, "Write the column as UTF-8.", error.object)
        except (ValueError, OverflowError, ArithmeticError) as error:
            what = f"the column `{name}` holds a value that cannot be read ({error})"
            return unreadable(where, what, "Leave the column out.")
    return Row(_own_keys(values), where)


def _own_keys(row: dict[str, Any]) -> dict[str, Any]:
    """The row, all its columns there, without nulls in the objects within them."""
    return {name: _filled(value) if isinstance(value, list | dict) else value for name, value in row.items()}


def _filled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _filled(inner) for key, inner in value.items() if inner is not None}
    return [_filled(inner) for inner in value] if isinstance(value, list) else value


def _rows_of(block: int, size: int, rows: int) -> int:
    return max(1, min(MOST_ROWS, block * rows // max(1, size)))


@contextmanager
def _guard() -> Iterator[None]:
    """What Arrow raises about a file becomes BrokenFile; what the system says of it stays."""
    import pyarrow as arrow

    try:
        yield
    except (arrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise BrokenFile(" ".join(str(error).split())[:200]) from error


def _open(path: Path) -> Any:
    import pyarrow as arrow
    from pyarrow import parquet

    if path.suffix.lower() == ".parquet":
        # A buffer makes it read pages as they are needed, where it would hold a row group's whole column.
        return parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    with path.open("rb") as file:
        magic = file.read(6)
    if not magic:
        raise BrokenFile("it is empty")
    if magic.startswith(b"FEA1"):
        raise BrokenFile("it is a Feather file of version 1, which Arrow gave up")
    source = arrow.memory_map(str(path))
    return arrow.ipc.open_file(source) if magic == b"ARROW1" else arrow.ipc.open_stream(source)
