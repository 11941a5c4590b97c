"""Rows go in, tokens and loss masks come out: the one way from a data section to what a trainer and a probe take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from alignkit.config.sections import Data
from alignkit.data.check import cannot_split
from alignkit.data.encoding.documents import DocumentEncoder, Encoding
from alignkit.data.formats.recognise import Format, recognise
from alignkit.data.mixing.holdout import choose, content_hash, token_hash, wanted
from alignkit.data.reading.places import Place, locate, read
from alignkit.data.report import Report
from alignkit.data.rows import Demonstration, Encoded, HeldOut
from alignkit.errors import Fault, RequestError

__all__ = ["Encoded", "HeldOut", "Prepared", "Report", "prepare", "prepare_held_out"]


@dataclass(frozen=True)
class Prepared:
    """Rows to train on in the order of the source, rows to evaluate on in the order of their hashes, and the counts."""

    train: list[Encoded]
    held_out: list[HeldOut]
    report: Report


def prepare(section: Data, tokenizer: Any, *, held_out_rows: int | None = None) -> Prepared:
    """Read, convert, split, render and tokenise a data section.

    Args:
        section: the recipe's `data`.
        tokenizer: a transformers tokenizer; conversations need its chat template.
        held_out_rows: tokenise at most this many of the held-out rows (the others stay out of training all the same).

    Raises:
        RequestError: a row that cannot be read or converted, too many rows over the length, nothing left to train on.
    """
    place = locate(section.name)
    split = "train" if place.kind == "generated" else section.split
    documents, found = _documents(section, place, split=split, rows=section.rows)
    encoder = DocumentEncoder(section, tokenizer)
    report = Report(source=place.said, format=str(found), read=len(documents))
    if place.passed_over:
        names = ", ".join(path.name for path in place.passed_over[:5])
        report.notes.append(f"not read in {place.said}: {names}" + (" …" if len(place.passed_over) > 5 else ""))
    if section.holdout_name is not None or (place.kind == "generated" and section.holdout):
        kept, apart = documents, _other_documents(section, place, found)
        _note_contamination(documents, apart, report)
    elif _by_piece(section, found, len(documents)):
        return _prepare_pieces(section, documents, encoder, report, held_out_rows)
    else:
        kept, apart = _split(section, documents, found)
    if section.rows is not None and section.rows < len(kept):
        report.notes.append(f"using the first {section.rows:,} of {len(kept):,} training rows (data.rows)")
    train = encoder.encode(kept[: section.rows])
    train.refuse_if_too_long()
    held = encoder.encode_held_out(apart[:held_out_rows])
    report.held_out_dropped = held.dropped
    return _finish(section, train, held.rows, encoder, report)


def prepare_held_out(section: Data, tokenizer: Any, *, limit: int | None = None) -> Prepared:
    """Every row of a data section as a held-out row, for an evaluation without training; `train` is empty.

    ``limit``: at most this many rows, those with the smallest hashes. Raises RequestError as `prepare` does, but too
    many rows over the length are only counted.
    """
    place = locate(section.name)
    rows = section.rows
    if place.kind == "generated":
        rows = wanted(section.holdout, section.rows or 0) or section.rows
    documents, found = _documents(section, place, split=_heldout_or(place, section.split), rows=rows)
    encoder = DocumentEncoder(section, tokenizer)
    report = Report(source=place.said, format=str(found), read=len(documents))
    order = choose([content_hash(document) for document in documents], len(documents))
    held = encoder.encode_held_out([documents[i] for i in order[:limit]])
    report.held_out_dropped = held.dropped
    report.held_out = len(held.rows)
    report.notes += encoder.notes()
    if not held.rows:
        raise _nothing_left(section, report, "evaluate on", held)
    return Prepared([], held.rows, report)


def _documents(section: Data, place: Place, *, split: str, rows: int | None) -> tuple[list[Demonstration], Format]:
    """All documents of a place and the format they were read as."""
    if place.kind == "generated" and rows is None:
        raise RequestError(Fault(where="data.rows", what=f"{place.name} makes rows, and nothing says how many"))
    found: Format | None = None
    documents: list[Demonstration] = []
    for row in read(place, split=split, config=section.config, revision=section.revision, rows=rows):
        if found is None:
            found = recognise(row)
            if section.overlength == "split" and not found.raw_text:
                raise RequestError(cannot_split("data.overlength", found))
        documents.append(found.convert(row))
    if found is None:
        raise RequestError(
            Fault(
                where="data.name", what=f"{place.name} is empty: there is no row in it", instead="Give one with rows."
            )
        )
    return documents, found


def _heldout_or(place: Place, split: str) -> str:
    """The split to evaluate on: a generator's own, else what the section says (only hub data sets read it)."""
    return "heldout" if place.kind == "generated" else split


def _split(section: Data, documents: list[Demonstration], found: Format) -> tuple[list[Demonstration], list[Demonstration]]:
    """(training, held-out) documents of one source."""
    count = wanted(section.holdout, len(documents))
    if not count:
        return documents, []
    chosen = choose([content_hash(document) for document in documents], count)
    if len(chosen) >= len(documents):
        raise RequestError(
            Fault(
                where="data.holdout",
                what=f"{count} of {len(documents)} rows would be held out, and none is left to train on",
                instead="Write a smaller data.holdout"
                + (", or data.overlength=split to hold out pieces of the text." if found.raw_text else "."),
            )
        )
    apart = set(chosen)
    return [d for i, d in enumerate(documents) if i not in apart], [documents[i] for i in chosen]


def _other_documents(section: Data, place: Place, found: Format) -> list[Demonstration]:
    """Held-out documents from a source of their own."""
    if section.holdout_name is None:
        assert section.rows is not None
        return _documents(section, place, split="heldout", rows=wanted(section.holdout, section.rows))[0]
    other = locate(section.holdout_name, "data.holdout_name")
    rows = section.holdout if isinstance(section.holdout, int) and section.holdout else 100
    # The subset and the revision belong to the training data's repository.
    own = section if other.name == place.name else replace(section, config=None, revision=None)
    documents, _ = _documents(own, other, split=_heldout_or(other, section.holdout_split), rows=rows)
    chosen = choose([content_hash(document) for document in documents], wanted(section.holdout, len(documents)))
    return [documents[i] for i in chosen]


def _note_contamination(documents: Sequence[Demonstration], apart: Sequence[Demonstration], report: Report) -> None:
    held = {content_hash(document) for document in apart}
    both = sum(content_hash(document) in held for document in documents)
    if both:
        report.notes.append(f"{both:,} training rows stand among the held-out rows too: their scores will flatter")


def _by_piece(section: Data, found: Format, documents: int) -> bool:
    """Whether pieces of text are held out instead of whole documents: too few documents for the count asked for."""
    if not (found.raw_text and section.overlength == "split" and section.holdout):
        return False
    share = section.holdout * documents if isinstance(section.holdout, float) else section.holdout
    return not 1 <= share <= documents / 2


def _prepare_pieces(
    section: Data, documents: list[Demonstration], encoder: DocumentEncoder, report: Report, limit: int | None
) -> Prepared:
    """Raw text of a few long documents: all of it in pieces, some of the pieces held out."""
    done = encoder.encode(documents)
    count = wanted(section.holdout, len(done.rows))
    chosen = choose([token_hash(row) for row in done.rows], count)
    if len(chosen) >= len(done.rows):
        raise RequestError(
            Fault(
                where="data.holdout",
                what=f"{count} of {len(done.rows)} pieces would be held out, and none is left to train on",
                instead="Write a smaller data.holdout.",
            )
        )
    held = [HeldOut(row.input_ids, row.labels, row.where) for row in (done.rows[i] for i in chosen[:limit])]
    apart = set(chosen)
    done.rows = [row for i, row in enumerate(done.rows) if i not in apart][: section.rows]
    report.notes.append("pieces are held out and not whole documents, since there are too few documents")
    return _finish(section, done, held, encoder, report)


def _finish(section: Data, train: Encoding, held: list[HeldOut], encoder: DocumentEncoder, report: Report) -> Prepared:
    """Counts into the report; an error when nothing is left."""
    rows: list[Encoded] = train.rows
    report.dropped = train.dropped
    if not rows:
        raise _nothing_left(section, report, "train on", train)
    report.kept, report.held_out = len(rows), len(held)
    report.tokens = sum(map(len, rows))
    report.trained_tokens = sum(row.trained for row in rows)
    report.longest = max(map(len, rows))
    if train.split:
        report.notes.append(f"texts cut into pieces of at most {section.max_length} tokens: {train.split:,}")
    if train.truncated:
        report.notes.append(f"rows truncated to {section.max_length} tokens: {train.truncated:,}")
    report.notes += encoder.notes()
    return Prepared(rows, held, report)


def _nothing_left(section: Data, report: Report, purpose: str, lost: Encoding) -> RequestError:
    reasons = "; ".join(f"{count:,}: {reason}" for reason, count in lost.dropped.most_common())
    longest = f" The longest has {max(lost.lengths):,} tokens." if lost.lengths else ""
    return RequestError(
        Fault(
            where="data",
            what=f"no row is left to {purpose}: {report.read:,} read as {report.format}, dropped {reasons or 'none'}",
            instead=f"Look at the first rows of {section.name}, and at data.max_length={section.max_length}.{longest}",
        )
    )
