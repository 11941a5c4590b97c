"""Rows go in, tokens and loss masks come out: the one way from a data section to what a trainer and a probe take.

read and encode (stores, shared among runs) → hold out → leave out doubles → mix → cap → rows
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.config.sections import Data
from alignkit.data.fingerprint import plain_digest
from alignkit.data.held_out import TOO_LONG, held_out_pieces, other_pool, rows_held_out
from alignkit.data.mixing.duplicates import clean, exact
from alignkit.data.mixing.holdout import token_hash, wanted
from alignkit.data.pool import Digest, Numbers, Pool, smallest
from alignkit.data.reading.places import locate
from alignkit.data.report import Report
from alignkit.data.rows import Encoded, HeldOut
from alignkit.data.store.ingest import Ingested
from alignkit.data.store.layout import hash_numbers
from alignkit.data.store.rowstore import View
from alignkit.data.store.tally import refuse_if_too_long
from alignkit.errors import Fault, RequestError

__all__ = ["Encoded", "HeldOut", "Prepared", "Report", "lengths_of", "prepare", "prepare_held_out"]


@dataclass(frozen=True)
class Prepared:
    """Rows to train on in the order of their sources, rows to evaluate on in the order of their hashes, the counts,
    and the sources of which rows were skipped (data.on_error=skip)."""

    train: Sequence[Encoded]
    held_out: list[HeldOut]
    report: Report
    skipped: tuple[Ingested, ...] = ()

    @property
    def weighted(self) -> bool:
        """Whether some trained token has another loss weight than 1."""
        return any(store.weights is not None for store in getattr(self.train, "stores", ()))

    @property
    def lengths(self) -> NDArray[np.int32]:
        """(R,) tokens of each training row."""
        return lengths_of(self.train)


def lengths_of(rows: Sequence[Encoded]) -> NDArray[np.int32]:
    """(R,) tokens of each row; a view of stores knows them."""
    found = getattr(rows, "lengths", None)
    return np.array([len(row) for row in rows], np.int32) if found is None else found


def prepare(
    section: Data, tokenizer: Any, *, digest_file: Digest = plain_digest, held_out_rows: int | None = None
) -> Prepared:
    """Read, convert, split, render and tokenise a data section.

    Args:
        section: the recipe's `data`.
        tokenizer: a transformers tokenizer; conversations need its chat template.
        digest_file: gives the SHA-256 of a file; a stage has one with a memory.
        held_out_rows: make at most this many of the held-out documents ready (the others stay out of training all the
            same).

    Raises:
        RequestError: a row that cannot be used, too many rows over the length, nothing left to train on.
    """
    pool = Pool.of(section, tokenizer, wants="demonstration", digest_file=digest_file)
    for one in pool.read:
        refuse_if_too_long(one.tally, one.store.full_lengths, section)
    report = _report(pool)
    everything = np.arange(len(pool.hashes), dtype=np.int64)
    if _by_piece(section, pool):
        return _prepare_pieces(section, pool, report, held_out_rows)
    other = other_pool(section, tokenizer, digest_file)
    if other is None:
        chosen = _choose(section, pool)
        kept = np.setdiff1d(everything, chosen, assume_unique=True)
        apart, aside = pool, chosen
    else:
        kept, apart = everything, other
        aside = smallest(other.hashes, wanted(section.holdout, len(other.hashes)))
        _report_apart(section, report, other)
    gone = Counter({TOO_LONG.format(section.max_length): int((~apart.left(aside)).sum())})
    kept = kept[pool.left(kept)]  # what is left of nothing takes no share and is nobody's double
    kept = _without_doubles(section, pool, kept, apart, aside, report)
    if section.sources:
        epoch, lines = pool.mixed(kept, section.rows)
        report.notes += lines
    else:
        epoch = kept[: section.rows]
        if len(epoch) < len(kept):
            report.notes.append(f"using the first {len(epoch):,} of {len(kept):,} training rows (data.rows)")
    held, _ = rows_held_out(apart, aside[:held_out_rows], section, tokenizer)
    report.held_out, report.held_out_dropped = len(aside), +gone
    done = _finish(section, pool, pool.rows(epoch), held, report)
    if other is None:
        report.dropped -= gone  # they were read with the others
        return done
    return replace(done, skipped=(*pool.skipped, *other.skipped))


def prepare_held_out(
    section: Data, tokenizer: Any, *, digest_file: Digest = plain_digest, limit: int | None = None
) -> Prepared:
    """Every row of a data section as a held-out row, for an evaluation without training; `train` is empty.

    ``limit``: at most this many documents, those with the smallest hashes. Raises RequestError as `prepare` does, but
    too many rows over the length are only counted.
    """
    place = locate(section.name) if section.name else None
    if place is not None and place.kind == "generated":
        rows = wanted(section.holdout, section.rows or 0) or section.rows
        section = replace(section, split="heldout", rows=rows)
    pool = Pool.of(replace(section, overlength_limit=1.0), tokenizer, wants="demonstration", digest_file=digest_file)
    report = _report(pool)
    chosen = smallest(pool.hashes, len(pool.hashes))[:limit]
    held, report.held_out_dropped = rows_held_out(pool, chosen, section, tokenizer)
    report.held_out, report.ready = len(pool.hashes), len(held)
    if not held:
        raise _nothing_left(section, pool, report, "evaluate on", report.held_out_dropped)
    return Prepared([], held, report, pool.skipped)


# --- what is held out ---------------------------------------------------------------------------------------------


def _choose(section: Data, pool: Pool) -> Numbers:
    """Documents of the pool that are held out, in the order of their hashes."""
    total = len(pool.hashes)
    count = wanted(section.holdout, total)
    chosen = smallest(pool.hashes, count)
    if count and len(chosen) >= total:
        raise RequestError(
            Fault(
                where="data.holdout",
                what=f"{count} of {total} rows would be held out, and none is left to train on",
                instead="Write a smaller data.holdout"
                + (", or data.overlength=split to hold out pieces of the text." if pool.raw_text else "."),
            )
        )
    return chosen


def _by_piece(section: Data, pool: Pool) -> bool:
    """Whether pieces of text are held out instead of whole documents: too few documents for the count asked for."""
    if not (pool.raw_text and section.overlength == "split" and section.holdout and section.holdout_name is None):
        return False
    documents = len(pool.hashes)
    share = section.holdout * documents if isinstance(section.holdout, float) else section.holdout
    return not 1 <= share <= documents / 2


def _prepare_pieces(section: Data, pool: Pool, report: Report, limit: int | None) -> Prepared:
    """Raw text of a few long documents: some of its pieces are held out."""
    view = pool.rows(np.arange(len(pool.hashes), dtype=np.int64))
    count = wanted(section.holdout, len(view))
    chosen = smallest(hash_numbers(b"".join(token_hash(row) for row in view)), count)
    if len(chosen) >= len(view):
        raise RequestError(
            Fault(
                where="data.holdout",
                what=f"{count} of {len(view)} pieces would be held out, and none is left to train on",
                instead="Write a smaller data.holdout.",
            )
        )
    kept = np.setdiff1d(np.arange(len(view)), chosen)[: section.rows]
    report.held_out = len(chosen)
    held = held_out_pieces(View(view.stores, view.which[chosen[:limit]], view.rows[chosen[:limit]]))
    report.notes.append("pieces are held out and not whole documents, since there are too few documents")
    return _finish(section, pool, View(view.stores, view.which[kept], view.rows[kept]), held, report)


# --- what is trained on -------------------------------------------------------------------------------------------


def _without_doubles(section: Data, pool: Pool, kept: Numbers, apart: Pool, aside: Numbers, report: Report) -> Numbers:
    """Documents that stay in training: without doubles and what is held out, where data.dedup asks for it."""
    near = section.dedup == "near"
    cleaned = clean(
        section.dedup,
        pool.hashes[kept],
        apart.hashes[aside],
        texts=pool.texts(kept) if near else None,
        held_out_texts=apart.texts(aside) if near else None,
        threshold=section.dedup_threshold,
    )
    report.dropped += cleaned.dropped
    report.notes += cleaned.notes
    if section.dedup == "none":
        repeated = len(kept) - int(exact(pool.hashes[kept]).sum())
        if repeated:
            rows = "1 row says" if repeated == 1 else f"{repeated:,} rows say"
            report.notes.append(f"{rows} the same as an earlier one (data.dedup=exact leaves such rows out)")
    return kept[cleaned.keep]


# --- the report ---------------------------------------------------------------------------------------------------


def _report(pool: Pool) -> Report:
    """What was read, of every source."""
    report = Report()
    for one in pool.read:
        report.sources.append((one.place.said, one.said, one.tally.read))
        report.read += one.tally.read
        report.skipped += one.tally.skipped
        if one.place.passed_over:
            names = ", ".join(path.name for path in one.place.passed_over[:5])
            more = " …" if len(one.place.passed_over) > 5 else ""
            report.notes.append(f"not read in {one.place.said}: {names}{more}")
    return report


def _report_apart(section: Data, report: Report, other: Pool) -> None:
    """What was read of a held-out set of its own."""
    for one in other.read:
        report.skipped += one.tally.skipped
        if section.holdout_name is not None:
            rows = f"{one.tally.read:,} row{'' if one.tally.read == 1 else 's'}"
            report.notes.append(f"held-out rows: read {rows} of {one.place.said} as {one.said}")


def _finish(section: Data, pool: Pool, rows: View, held: list[HeldOut], report: Report) -> Prepared:
    """Counts into the report; an error when nothing is left."""
    lost: Counter[str] = Counter()
    for one in pool.read:
        lost += one.tally.dropped
        if one.tally.split:
            report.notes.append(f"texts cut into pieces of at most {section.max_length} tokens: {one.tally.split:,}")
        if one.tally.truncated:
            report.notes.append(f"rows truncated to {section.max_length} tokens: {one.tally.truncated:,}")
        report.notes += one.tally.said()
    report.dropped += lost
    if not len(rows):
        raise _nothing_left(section, pool, report, "train on", lost)
    report.kept, report.ready = len(rows), len(held)
    report.tokens = int(rows.lengths.sum(dtype=np.int64))
    report.trained_tokens = int(rows.trained.sum(dtype=np.int64))
    report.longest = int(rows.lengths.max())
    return Prepared(rows, held, report, pool.skipped)


def _nothing_left(section: Data, pool: Pool, report: Report, purpose: str, lost: Counter[str]) -> RequestError:
    reasons = "; ".join(f"{count:,}: {reason}" for reason, count in lost.most_common())
    lengths = [int(store.full_lengths.max()) for store in pool.stores if len(store.full_lengths)]
    longest = f" The longest has {max(lengths):,} tokens." if lengths else ""
    names = ", ".join(said for said, _, _ in report.sources)
    return RequestError(
        Fault(
            where="data",
            what=f"no row is left to {purpose}: {report.read:,} read of {names}, dropped {reasons or 'none'}",
            instead=f"Look at the first rows (alignkit data preview {section.name or pool.sources[0].name}), and at "
            f"data.max_length={section.max_length}.{longest}",
        )
    )
