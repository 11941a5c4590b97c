"""CSV and TSV: a table whose first line names the columns, read as a stream; every cell is text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import BinaryIO

from alignkit.data.reading.compressed import Damaged
from alignkit.data.reading.faults import AGAIN, foreign, near, unreadable
from alignkit.data.rows import Row, Unreadable

LONGEST_CELL = 256_000_000
"""Characters. A cell beyond that is one whose quote was never closed."""
BOM = "\ufeff"


def table_rows(stream: BinaryIO, name: str, delimiter: str = ",", cut: bool = False) -> Iterator[Row | Unreadable]:
    """Rows and faults in order; the reading goes on after a fault of a row, and ends after one of the header.

    ``cut``: the stream was cut somewhere; its last row is then left out.
    """
    rows = _rows(stream, name, delimiter)
    if not cut:
        yield from rows
        return
    held = next(rows, None)
    for row in rows:
        if held is not None:
            yield held
        held = row


def header_fault(name: str, columns: Sequence[str]) -> Unreadable | None:
    """The fault of two columns of one name; None: there are none."""
    if len(set(columns)) == len(columns):
        return None
    twice = next(column for column in columns if columns.count(column) > 1)
    what = f"the column `{twice}` stands there twice" if twice else "two columns have no name"
    return unreadable(name, what, "Rename one." if twice else "Name them.", ", ".join(columns), rest=True)


def _rows(stream: BinaryIO, name: str, delimiter: str) -> Iterator[Row | Unreadable]:
    csv.field_size_limit(LONGEST_CELL)
    # Bytes that are no UTF-8 become surrogates, so that the table is read on and the row is named.
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
    lines = _Lines(text)
    table = csv.reader(lines, delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    while True:
        start = lines.number + 1
        where = f"{name} line {start}"
        try:
            cells = next(table)
        except StopIteration:
            return
        except Damaged as damage:
            yield unreadable(f"{name} line {lines.number + 1}", str(damage), AGAIN, rest=True)
            return
        except csv.Error as error:
            broken = _broken(where, str(error), lines, start)
            if columns is None:
                yield replace(broken, rest=True)
                return
            yield broken
            lines.odd.clear()
            continue
        if columns is None:
            if (fault := _no_header(name, cells, lines, delimiter)) is not None:
                yield replace(fault, rest=True)
                return
            columns = cells
        elif lines.odd:
            yield lines.odd_fault(name, delimiter.join(cells))
        elif len(cells) == len(columns):
            yield Row(dict(zip(columns, cells, strict=True)), where)
        elif cells:
            what = f"has {len(cells)} cells, and the first line names {len(columns)} columns"
            raw = delimiter.join(cells)
            yield unreadable(where, what, "Put cells that hold the separator in quotes.", raw)


class _Lines:
    """The lines of a table with their numbers. ``odd``: those since the last row that hold what no text holds."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self.number = 0
        self.odd: list[tuple[int, str]] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._text.readline(LONGEST_CELL)
        if not line:
            raise StopIteration
        self.number += 1
        if "\0" in line or not (line.isascii() or _is_text(line)):
            self.odd.append((self.number, line))
        return line.removeprefix(BOM) if self.number == 1 else line

    def odd_fault(self, name: str, raw: str) -> Unreadable:
        """The fault of the first odd line, and `odd` empty again."""
        number, line = self.odd[0]
        self.odd.clear()
        where = f"{name} line {number}"
        at = next(i for i, character in enumerate(line) if character == "\0" or 0xDC80 <= ord(character) <= 0xDCFF)
        if line[at] == "\0":
            what = f"holds a NUL byte at column {at + 1}, so this is no text"
            return unreadable(where, what, "Leave it out, or save the file as UTF-8 if it is UTF-16.", raw)
        position = len(line[:at].encode("utf-8")) + 1
        what = f"is not UTF-8 (byte 0x{ord(line[at]) - 0xDC00:02x} at position {position})"
        raw = raw.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return unreadable(where, what, "Save the file as UTF-8 (iconv -f latin1 -t utf-8).", raw)


def _is_text(line: str) -> bool:
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _broken(where: str, reason: str, lines: _Lines, start: int) -> Unreadable:
    swallowed = lines.number - start
    if "unexpected end of data" in reason or "field larger" in reason:
        what = "opens a quoted cell that is never closed"
        if swallowed:
            what += f", so the {swallowed:,} lines after it cannot be read either"
        instead = 'Close the quote, or double it if it belongs to the text: "".'
        return unreadable(where, what, instead, rest=swallowed > 0)
    return unreadable(where, f"is not a valid table row ({reason})", 'Double a quote that belongs to the text: "".')


def _no_header(name: str, columns: list[str], lines: _Lines, delimiter: str) -> Unreadable | None:
    """What is wrong with the first line of a table; None: nothing."""
    where, raw = f"{name} line 1", delimiter.join(columns)
    if lines.odd:
        start = lines.odd[0][1][:8].encode("utf-8", "surrogateescape")
        return foreign(name, start) or lines.odd_fault(name, raw)
    if len(columns) == 1:
        other = next((mark for mark in ";\t|," if mark != delimiter and columns[0].count(mark)), None)
        if other is not None:
            shown = {"\t": "a tab", ",": "a comma"}.get(other, f"`{other}`")
            what = f"names one column, {near(raw, 0)}, as if {shown} separated the columns"
            instead = {"\t": "End the file's name in .tsv.", ",": "End the file's name in .csv."}
            return unreadable(where, what, instead.get(other, "Save the table with commas."), raw)
    return header_fault(where, columns)
