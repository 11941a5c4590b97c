"""What can be known about data before anything heavy is imported: files, lines, columns. At most 1 MB of each file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from alignkit.config.sections import Data, DataSource
from alignkit.data.formats.columns import map_faults
from alignkit.data.formats.converter import Converter, plan
from alignkit.data.formats.table import format_fault
from alignkit.data.reading.places import Place, locate
from alignkit.data.reading.readers import beginning, shows_all
from alignkit.data.rows import Kind, Row, Unreadable
from alignkit.errors import Fault, RequestError

REVISION = re.compile(r"[\w./-]{1,200}")
"""What git takes for the name of a commit, and no address: an address may hold a password, and is kept with a run."""
LIMIT = 1_000_000
"""Bytes read of each file."""
FAULTS_PER_FILE = 5
"""More faults than these of one file are of the same kind, as a rule."""


def check(section: Data, *, where: str = "data", wants: Kind | None = "demonstration") -> list[Fault]:
    """Every fault of a data section that its files show. No network, no torch, transformers or datasets.

    ``wants``: the kind of document that the stage learns from; None: any.
    """
    faults = list(_contradictions(section, where))
    if section.template is not None:
        from alignkit.data.templates.catalogue import template_fault

        found = template_fault(section.template)
        faults += [Fault(where=f"{where}.template", what=found.what, instead=found.instead)] if found else []
    for key, revision in (("revision", section.revision), *_revisions(section)):
        if revision is not None and not REVISION.fullmatch(revision):
            what = "is no branch, tag or commit"
            faults.append(Fault(where=f"{where}.{key}", what=what, instead="Write one, such as main."))
    walks = []
    for number, source in enumerate(section.parts()):
        key = f"{where}.sources[{number}].name" if section.sources else f"{where}.name"
        walk = _Walk(source, wants)
        faults += _faults(section, walk, key, where)
        walks.append(walk)
    if section.holdout_name is not None:
        apart = replace(section, sources=[DataSource(name=section.holdout_name)])
        walk = _Walk(apart.parts()[0], wants)  # read as the section says, as in training
        faults += _faults(section, walk, f"{where}.holdout_name", where)
    elif not faults and not any(walk.unseen for walk in walks):
        faults += _holdout_faults(section, where, walks)
    return faults


def _revisions(section: Data) -> Iterator[tuple[str, str | None]]:
    return ((f"sources[{number}].revision", source.revision) for number, source in enumerate(section.sources))


def cannot_split(where: str, found: Converter) -> Fault:
    """The fault of overlength=split on rows that would lose their question or their answer."""
    return Fault(
        where=where,
        what=f"split cuts raw text, and the rows are {found.name}",
        instead="Write drop, truncate or error.",
    )


def _contradictions(section: Data, where: str) -> Iterator[Fault]:
    if section.sources and section.name:
        yield Fault(
            where=f"{where}.sources",
            what=f"a mixture stands in place of {where}.name, and that is {section.name}",
            instead=f"Write data=[…], or list {section.name} among the sources and take {where}.name away.",
        )
    weighted = [source.weight is not None for source in section.sources]
    if any(weighted) and not all(weighted):
        without = section.sources[weighted.index(False)].name
        yield Fault(
            where=f"{where}.sources",
            what=f"some sources have a weight, and {without} has none",
            instead="Give a weight to every source, or to none (then every row is used).",
        )


def _faults(section: Data, walk: _Walk, key: str, where: str) -> Iterator[Fault]:
    name = walk.source.name
    try:
        place = locate(name, key)
    except RequestError as error:
        yield from error.faults
        walk.unseen = True
        return
    walk.unseen = place.kind != "files"
    if key == f"{where}.name":
        yield from _unread(section, place, where)
    options = key.removesuffix(".name") if not key.endswith("holdout_name") else where
    wrong = list(map_faults(walk.source.map, f"{options}.map"))
    if walk.source.format is not None and (fault := format_fault(walk.source.format, f"{options}.format")):
        wrong.append(fault)
    yield from wrong
    if wrong:
        walk.unseen = True
        return
    counted = section.rows is not None or walk.source.limit is not None
    if place.kind == "generated" and not counted and not key.endswith("holdout_name"):
        what = f"{name} makes rows, and nothing says how many"
        yield Fault(where=f"{where}.rows", what=what, instead="Set it, or in a mixture the source's limit.")
    if place.kind != "files":
        return
    yield from walk.through(place, skip=section.on_error == "skip")
    if walk.converter is None:
        if not walk.faults and not walk.unseen:
            yield Fault(where=key, what=f"{name} is empty: there is no row in it", instead="Give a file with rows.")
    elif (
        section.overlength == "split"
        and not section.sources
        and not walk.converter.raw_text
        and walk.wants not in ("preference", "feedback")
    ):
        yield cannot_split(f"{where}.overlength", walk.converter)


def _unread(section: Data, place: Place, where: str) -> Iterator[Fault]:
    """Options of hub data sets that a source of another kind does not look at."""
    if place.kind == "hub":
        return
    options = {"config": section.config, "revision": section.revision}
    if place.kind == "files" and not place.splits and section.split != "train":
        options["split"] = section.split
    for name, value in options.items():
        if value is not None:
            what = f"it is {value}, and {place.name} has no {name}: that is of hub data sets"
            yield Fault(where=f"{where}.{name}", what=what, instead=f"Take {where}.{name} away.")


def _holdout_faults(section: Data, where: str, walks: list[_Walk]) -> Iterator[Fault]:
    """More rows held out than there are. A count of raw text may count pieces, so it cannot be judged here."""
    raw = all(walk.converter is not None and walk.converter.raw_text for walk in walks)
    rows = sum(walk.documents for walk in walks)
    if raw and section.overlength == "split":
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
            instead=f"Write {where}.holdout=0" + (f", or {where}.overlength=split." if raw else "."),
        )


class _Walk:
    """What the beginnings of one source's files show."""

    def __init__(self, source: DataSource, wants: Kind | None) -> None:
        self.source, self.wants = source, wants
        self.converter: Converter | None = None
        self.documents = 0
        self.faults = 0
        self.unseen = False
        """Some rows stand beyond the limit, or cannot be looked at."""

    def through(self, place: Place, *, skip: bool) -> Iterator[Fault]:
        """The first faults of each file; with ``skip`` only those that leave nothing to read."""
        for file in place.files:
            try:
                self.unseen = self.unseen or not shows_all(file, LIMIT)
                rows = beginning(file, str(file), LIMIT)
                found = list(islice(self._file_faults(rows), None if skip else FAULTS_PER_FILE))
            except OSError as error:
                what = f"cannot be read: {error.strerror}"
                found = [Fault(where=str(file), what=what, instead="Check its permissions.")]
            self.faults += len(found)
            yield from found[:1] if skip and self.converter is None else [] if skip else found

    def _file_faults(self, rows: Iterator[Row | Unreadable]) -> Iterator[Fault]:
        converted = 0
        for row in rows:
            if isinstance(row, Unreadable):
                yield row.fault
                continue
            try:
                if self.converter is None:
                    self.converter = plan(self.source, self.wants, row)
                self.documents += len(self.converter(row))
                converted += 1
            except RequestError as error:
                yield from error.faults
                if not converted:  # a file of another format: its other rows would say the same
                    return
