"""Every row of a data section, one after the other, as what it was read as or as the fault that it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignkit.config.sections import Data, DataSource
from alignkit.data.check import cannot_split
from alignkit.data.formats.converter import Converter, plan
from alignkit.data.reading.parts import parts, read_part
from alignkit.data.reading.places import Place, locate
from alignkit.data.rows import Document, Kind, Row, Unreadable
from alignkit.data.store.ingest import TRIED
from alignkit.data.store.pipeline import UNREAD
from alignkit.data.store.tally import counted_notes
from alignkit.errors import Fault, RequestError

GENERATED = 1000
"""Rows of a generator, where nothing says how many."""


@dataclass(slots=True)
class Found:
    """One row. Either ``fault`` says why it cannot be used, or ``documents`` are what it was read as (none: it was left
    out on purpose, as an unwanted answer is when demonstrations are asked for)."""

    where: str
    documents: list[Document] = field(default_factory=list)
    fault: Fault | None = None
    raw: str = ""
    values: dict[str, Any] | None = None
    """The row as it stands in the source; None when it could not be read."""

    def row_text(self) -> str:
        """The row for a person's file of skipped rows: as it was found, or as JSON."""
        if self.values is None:
            return self.raw
        return json.dumps(self.values, ensure_ascii=False, default=str)[:2000]


class Walk:
    """The rows of one source. What is said of the source as a whole is known once the first row was read.

    A source of which no row of the beginning is in a known format is not read on: every row would say the same. Where
    such rows are skipped (``skip``), the beginning is that of training; else it is the first row.
    """

    def __init__(
        self, source: DataSource, *, rows: int | None = None, wants: Kind | None = None, skip: bool = False
    ) -> None:
        self.source = source
        self.place: Place = locate(source.name)
        if self.place.kind == "generated":
            rows = source.limit or rows or GENERATED
        self.rows = rows
        self.wants = wants
        self.tries = TRIED if skip else 1
        self.converter: Converter | None = None
        self.gave_up = False
        self.unread = 0
        """Files that could not be read to their end."""

    @property
    def name(self) -> str:
        """The shortest name for a line to a person."""
        return self.place.said

    def short(self, where: str) -> str:
        """`sft.jsonl line 3` for a row of `/a/long/path/sft.jsonl`; in a directory, the path below it."""
        if self.place.kind != "files":
            return where
        folder = Path(self.place.name).expanduser()
        return where.removeprefix(f"{folder}/").removeprefix(f"{folder.parent}/")

    @property
    def said(self) -> str:
        """`chats.jsonl: chat messages (column messages)`."""
        return f"{self.name}: {self.converter.said if self.converter else 'no row could be read'}"

    def refusal(self, section: Data) -> Fault | None:
        """What training would refuse the source as a whole for, by the kind of its rows."""
        if section.overlength != "split" or section.sources or self.converter is None or self.converter.raw_text:
            return None
        return cannot_split("data.overlength", self.converter)

    def notes(self) -> list[str]:
        """What a person should hear of the source, once it was read."""
        found = []
        if self.place.passed_over:
            names = ", ".join(path.name for path in self.place.passed_over[:5])
            found.append(f"not read: {names}" + (" …" if len(self.place.passed_over) > 5 else ""))
        if self.place.kind == "generated":
            found.append(f"the generator was asked for {self.rows:,} rows (data.rows)")
        if self.unread:
            found.append(f"{self.unread:,} {UNREAD}")
        if self.converter is not None:
            found += counted_notes(self.converter.notes)
        return found

    def __iter__(self) -> Iterator[Found]:
        for row in self._rows():
            if isinstance(row, Unreadable):
                self.unread += row.rest
                yield Found(row.fault.where, fault=row.fault, raw=row.raw)
                continue
            try:
                if self.converter is None:
                    self.converter = plan(self.source, self.wants, row)
                yield Found(row.where, self.converter(row), values=row.values)
            except RequestError as error:
                yield Found(row.where, fault=error.faults[0], values=row.values)
                if self.converter is None:
                    self.tries -= 1
                    self.gave_up = self.tries == 0
                    if self.gave_up:
                        return

    def _rows(self) -> Iterator[Row | Unreadable]:
        source = self.source
        for part in parts(
            self.place, split=source.split or "train", config=source.config, revision=source.revision, rows=self.rows
        ):
            yield from read_part(part)


def kinds(section: Data) -> set[Kind]:
    """What the rows of a section's sources are, each by its first row that can be used. Raises RequestError for a
    source that cannot be reached."""
    found: set[Kind] = set()
    for part in section.parts():
        walk = Walk(part, rows=section.rows, skip=True)
        for _ in walk:
            if walk.converter is not None:
                found.add(walk.converter.found)
                break
    return found


def walks(section: Data, *, wants: Kind | None = None) -> list[Walk]:
    """One walk for each source of a data section."""
    skip = section.on_error == "skip"
    return [Walk(source, rows=section.rows, wants=wants, skip=skip) for source in section.parts()]
