"""What can be known about data before anything heavy is imported: files, lines, columns. At most 1 MB of each file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from alignkit.config.sections import Data
from alignkit.data.formats.recognise import Format, recognise
from alignkit.data.reading.places import TEXT_SUFFIXES, Place, locate
from alignkit.data.reading.readers import READERS
from alignkit.data.rows import Row
from alignkit.errors import Fault, RequestError

LIMIT = 1_000_000
"""Bytes read of each file."""
FAULTS_PER_FILE = 5
"""More faults than these of one file are of the same kind, as a rule."""


def check(section: Data, *, where: str = "data") -> list[Fault]:
    """Every fault of a data section that its files show. No network, no torch, transformers or datasets."""
    faults = list(_faults(section, section.name, f"{where}.name", where))
    if section.holdout_name is not None:
        faults += _faults(section, section.holdout_name, f"{where}.holdout_name", where)
    return faults


def _faults(section: Data, name: str, key: str, where: str) -> Iterator[Fault]:
    try:
        place = locate(name, key)
    except RequestError as error:
        yield from error.faults
        return
    if place.kind == "generated" and section.rows is None and key.endswith(".name"):
        yield Fault(where=f"{where}.rows", what=f"{name} makes rows, and nothing says how many", instead="Set it.")
    if place.kind != "files":
        return
    checked = _Checked()
    yield from checked.walk(place)
    if checked.format is None:
        if not checked.faults and not checked.unseen:
            yield Fault(where=key, what=f"{name} is empty: there is no row in it", instead="Give a file with rows.")
        return
    if section.overlength == "split" and not checked.format.raw_text:
        yield cannot_split(f"{where}.overlength", checked.format)
    if key.endswith(".name") and not checked.unseen and not checked.faults and section.holdout_name is None:
        yield from _holdout_faults(section, where, checked.rows, checked.format)


def cannot_split(where: str, found: Format) -> Fault:
    """The fault of overlength=split on rows that would lose their question or their answer."""
    return Fault(
        where=where,
        what=f"split cuts raw text, and the rows are {found.name}",
        instead="Write drop, truncate or error.",
    )


def _holdout_faults(section: Data, where: str, rows: int, found: Format) -> Iterator[Fault]:
    """More rows held out than there are. A count of raw text may count pieces, so it cannot be judged here."""
    if found.raw_text and section.overlength == "split":
        return
    if isinstance(section.holdout, int) and section.holdout >= rows:
        yield Fault(
            where=f"{where}.holdout",
            what=f"{section.holdout} rows are to be held out, and there are only {rows}",
            instead=f"Write a smaller count, or a share such as {where}.holdout=0.1.",
        )
    elif rows == 1 and section.holdout:
        yield Fault(
            where=f"{where}.holdout",
            what="there is only one row, so none can be held out",
            instead=f"Write {where}.holdout=0" + (f", or {where}.overlength=split." if found.raw_text else "."),
        )


class _Checked:
    """What a walk over the files' beginnings found."""

    def __init__(self) -> None:
        self.format: Format | None = None
        self.rows = 0
        self.faults = 0
        self.unseen = False
        """Some rows stand beyond the limit."""

    def walk(self, place: Place) -> Iterator[Fault]:
        for file in place.files:
            try:
                size = file.stat().st_size
                # A text is one row, however long.
                self.unseen = self.unseen or (size > LIMIT and file.suffix.lower() not in TEXT_SUFFIXES)
                rows = READERS[file.suffix.lower()](file, str(file), LIMIT)
                for fault in islice(self._file_faults(rows), FAULTS_PER_FILE):
                    self.faults += 1
                    yield fault
            except OSError as error:
                self.faults += 1
                yield Fault(where=str(file), what=f"cannot be read: {error.strerror}", instead="Check its permissions.")

    def _file_faults(self, rows: Iterator[Row | Fault]) -> Iterator[Fault]:
        converted = 0
        for row in rows:
            if isinstance(row, Fault):
                yield row
                continue
            self.rows += 1
            try:
                if self.format is None:
                    self.format = recognise(row)
                self.format.convert(row)
                converted += 1
            except RequestError as error:
                yield from error.faults
                if not converted:  # a file of another format: its other rows would say the same
                    return
