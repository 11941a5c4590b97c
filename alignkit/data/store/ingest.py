"""A source of data becomes a store of tokens: found in the cache, or read, converted, rendered and tokenised once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from alignkit.config.sections import Data, DataSource
from alignkit.console import log
from alignkit.data.check import cannot_split
from alignkit.data.encoding.documents import SHORT_WAYS
from alignkit.data.formats.converter import Converter, plan
from alignkit.data.reading.parts import Part, parts, read_part
from alignkit.data.reading.places import Place, locate
from alignkit.data.rows import Kind, Unreadable
from alignkit.data.rules import DEFAULT, Rules
from alignkit.data.store import cache, workers
from alignkit.data.store.identity import store_key
from alignkit.data.store.layout import SKIPPED, token_type
from alignkit.data.store.pipeline import Job
from alignkit.data.store.rowstore import RowStore
from alignkit.data.store.tally import Tally
from alignkit.data.store.writer import StoreWriter
from alignkit.errors import Fault, RequestError, RunError

BLOCK = 2_000_000
"""Bytes of a part, about."""
WORTH_WORKERS = 8_000_000
"""Bytes from which on starting other processes pays."""
MOST = 16
"""Processes that are started by themselves: one process writes what all of them make, and is busy with that many."""
SIGN_OF_LIFE = 30.0
"""Seconds between lines about how far it is."""
TRIED = 20
"""Rows that are tried for their format, where rows that cannot be used are skipped."""


@dataclass(frozen=True)
class Ingested:
    """A source as tokens. ``said``: how its rows were read, for people; ``kind``: of its documents."""

    store: RowStore
    said: str
    kind: Kind
    raw_text: bool
    tally: Tally
    place: Place
    cached: bool
    """Whether the store was there already."""

    def write_skipped(self, path: Path) -> None:
        """Append the rows that were left out to a file, one JSON object a line: where, what, row."""
        with (self.store.path / SKIPPED).open("rb") as source, path.open("ab") as target:
            for line in source:
                if self.store.renamed:
                    row = json.loads(line)
                    row["where"] = self.store.rename(row["where"])
                    line = (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
                target.write(line)


def ingest(
    source: DataSource,
    section: Data,
    tokenizer: Any,
    *,
    wants: Kind = "demonstration",
    key: str = "data.name",
    split: str | None = None,
    rows: int | None = None,
    rules: Rules = DEFAULT,
    digest_file: Callable[[Path], str],
) -> Ingested:
    """The store of one source.

    Args:
        source: one of `section.parts()`, so with everything filled in.
        section: for how rows become tokens, and for `processes`.
        tokenizer: a transformers tokenizer; conversations need its chat template.
        wants: the kind of document the stage learns from.
        key: what the source is called in errors about its name.
        split: instead of the source's.
        rows: how many a generator makes; other sources are read whole.
        rules: what becomes of comparisons that are too long, or whose scores contradict them.
        digest_file: gives the SHA-256 of a file.

    Raises:
        RequestError: the first row that cannot be used, unless `section.on_error` is skip; no row at all; a source
            that is not there. RunError: the cache cannot be written.
    """
    place = locate(source.name, key)
    made = place.kind == "generated"
    if made and rows is None:
        raise RequestError(Fault(where="data.rows", what=f"{place.name} makes rows, and nothing says how many"))
    chosen = split or source.split or "train"
    rows = rows if made else None
    name = store_key(
        place, source, section, tokenizer, wants=wants, split=chosen, rows=rows, rules=rules, digest_file=digest_file
    )
    directory = cache.find(name)
    cached = directory is not None
    if directory is None:
        with cache.writing(name) as empty:
            if empty is not None:
                read = partial(
                    parts, place, split=chosen, config=source.config, revision=source.revision, rows=rows, block=BLOCK
                )
                try:
                    _write(read, source, section, tokenizer, wants, rules, empty, place)
                except FileNotFoundError as error:
                    raise RunError(f"{error.filename or place.said} was removed while it was read.") from error
        directory = cache.cache_root() / name
    return _opened(directory, place, cached)


def _opened(directory: Path, place: Place, cached: bool) -> Ingested:
    store = RowStore(directory, [str(file) for file in place.files])
    manifest = store.manifest
    tally = Tally.from_dict(manifest["tally"])
    tally.long_rows = [store.rename(where) for where in tally.long_rows]
    return Ingested(store, manifest["said"], manifest["kind"], manifest["raw_text"], tally, place, cached)


def _write(
    read: Callable[[], Iterator[Part]],
    source: DataSource,
    section: Data,
    tokenizer: Any,
    wants: Kind,
    rules: Rules,
    directory: Path,
    place: Place,
) -> None:
    """Everything into an empty directory."""
    for short in (True, False):
        found = _Replayed(read())
        converter = _planned(found, source, wants, rules, skip=section.on_error == "skip")
        # In a mixture it is meant for the texts; what else is too long is dropped.
        if section.overlength == "split" and not section.sources and not converter.raw_text:
            raise RequestError(cannot_split("data.overlength", converter))
        count = _processes(section, found)
        if count > 1:
            log.say(f"Tokenizing {place.said} with {count} processes …")
        try:
            _run(Job(converter, section, tokenizer, rules, short), found.all(), count, directory, place)
            return
        except SHORT_WAYS as difference:
            log.detail(f"{difference}; all rows are encoded anew, the long way.")


def _run(job: Job, found: Iterator[Part], processes: int, directory: Path, place: Place) -> None:
    with (
        StoreWriter(directory, token_type(len(job.tokenizer))) as writer,
        closing(workers.run(found, job, processes, directory)) as done,
    ):
        said = time.monotonic()
        for packed in done:
            if packed.fault:
                raise RequestError(packed.fault)
            writer.append(packed)
            if time.monotonic() - said > SIGN_OF_LIFE:
                said = time.monotonic()
                log.say(f"{writer.tally.read:,} rows of {place.said} tokenized …")
        writer.finish(
            {
                "files": [str(file) for file in place.files],
                "said": job.converter.said,
                "kind": job.converter.kind,
                "raw_text": job.converter.raw_text,
            }
        )


class _Replayed:
    """Parts of which some were looked at already."""

    def __init__(self, found: Iterator[Part]) -> None:
        self._found = found
        self.seen: list[Part] = []

    def walk(self) -> Iterator[Part]:
        """The parts from the first, kept for later."""
        for part in self._found:
            self.seen.append(part)
            yield part

    def all(self) -> Iterator[Part]:
        """Every part once; nothing is kept any more."""
        while self.seen:
            yield self.seen.pop(0)
        yield from self._found


def _planned(found: _Replayed, source: DataSource, wants: Kind, rules: Rules, *, skip: bool) -> Converter:
    """How the rows are read, by the first row that can be; without ``skip`` the first row must."""
    fault: RequestError | None = None
    tried = 0
    for part in found.walk():
        for row in read_part(part):
            try:
                if isinstance(row, Unreadable):
                    raise RequestError(row.fault)
                return plan(source, wants, row, rules)
            except RequestError as error:
                fault = fault or error
                tried += not isinstance(row, Unreadable)
                if not skip or tried >= TRIED:
                    raise fault from None
    if fault is not None:
        raise fault
    what = f"{source.name} is empty: there is no row in it"
    raise RequestError(Fault(where="data.name", what=what, instead="Give one with rows."))


def _processes(section: Data, found: _Replayed) -> int:
    """How many processes are worth it: one for what is read sooner than they are started."""
    wanted = min(MOST, workers.cores()) if section.processes == "auto" else section.processes
    if wanted < 2:
        return 1
    size = sum(part.size for part in found.seen)
    for part in found.walk():
        size += part.size
        if size >= WORTH_WORKERS and len(found.seen) >= wanted:
            break
    return min(wanted, len(found.seen)) if size >= WORTH_WORKERS else 1
