"""Rows of any format into a clean file of one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from alignkit.config.sections import Data
from alignkit.console.counting import counted
from alignkit.data.eyes.walk import Walk, walks
from alignkit.data.rows import Document, Kind
from alignkit.data.writing import kind_of_format, write, writing_faults
from alignkit.errors import Fault, RequestError


def rewrite(section: Data, target: Path, format: str, *, wants: Kind | None = None, force: bool = False) -> list[str]:
    """Write all rows of a data section to ``target``; returns what is to be said of it.

    With ``data.on_error=skip`` rows that cannot be used go to ``target.skipped.jsonl``, one object {where, what, row}
    each. Nothing is written when it raises. Raises RequestError: a row that cannot be used, a document that the format
    cannot say, a file that is there already.
    """

    faults = writing_faults(target, format)
    if faults:
        raise RequestError(faults)
    skipped = target.with_name(f"{target.name}.skipped.jsonl")
    taken = next((file for file in (target, skipped) if file.exists()), None)
    if taken is not None and not force:
        raise RequestError(
            Fault(where=str(taken), what="is there already", instead="Give another name, or add --force.")
        )
    sources = walks(section, wants=wants or kind_of_format(format))
    stream = _Stream(sources, skip=section.on_error == "skip")
    stream.notes = skipped.with_name(f".{skipped.name}.{os.getpid()}")
    try:
        count = write(stream.documents(), target, format)
    except BaseException:
        stream.close()
        stream.notes.unlink(missing_ok=True)
        raise
    stream.close()
    said = [walk.said for walk in sources]
    said += [f"{walk.place.said}: {note}" for walk in sources for note in walk.notes()]
    if stream.skipped:
        stream.notes.replace(skipped)
        said.append(f"skipped {stream.skipped:,} rows that cannot be used: {skipped}")
    else:
        skipped.unlink(missing_ok=True)
    return [*said, f"wrote {count:,} rows as {format}"]


class _Stream:
    """The documents of several sources, one after the other; what is skipped goes to a file on the way."""

    def __init__(self, sources: list[Walk], *, skip: bool) -> None:
        self.sources = sources
        self.skip = skip
        self.skipped = 0
        self.notes = Path()
        self._file: TextIO | None = None

    def documents(self) -> Iterator[Document]:
        """Raises RequestError at the first row that cannot be used, unless it is to be skipped."""
        for walk in self.sources:
            first: Fault | None = None
            for found in counted(walk, walk.name):
                if found.fault is None:
                    yield from found.documents
                elif not self.skip:
                    raise RequestError(found.fault)
                else:
                    first = first or found.fault
                    self._note(found.fault, found.row_text())
            if first is not None and walk.converter is None:  # no row said how the source is read
                raise RequestError(first)

    def _note(self, fault: Fault, row: str) -> None:
        self.skipped += 1
        if self._file is None:
            self._file = self.notes.open("w", encoding="utf-8")
        said = {"where": fault.where, "what": fault.what, "instead": fault.instead, "row": row}
        self._file.write(json.dumps(said, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Close the file of skipped rows."""
        if self._file is not None:
            self._file.close()
