"""Which rows are shown: the first ones, those from a number on, or some drawn at random."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from alignkit.config.sections import Data
from alignkit.data.eyes.tokens import Viewer
from alignkit.data.eyes.views import Look, sentence
from alignkit.data.eyes.walk import Found, Walk, walks
from alignkit.data.rows import Kind
from alignkit.errors import Fault, RequestError


@dataclass
class Preview:
    """Rows to be shown, and what is said of the whole."""

    said: list[str] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)


def preview(
    section: Data,
    tokenizer: Any | None,
    *,
    n: int = 3,
    row: int | None = None,
    seed: int | None = None,
    wants: Kind | None = None,
) -> Preview:
    """Looks at ``n`` rows of each source: the first, those from number ``row`` on (1 is the first row), or with a
    ``seed`` rows drawn at random from the whole source, in their order.

    Raises RequestError when a source has no row to show, or is in no known format.
    """
    viewer = Viewer(section, tokenizer)
    done = Preview()
    for walk in walks(section, wants=wants):
        chosen = list(_drawn(walk, n, seed) if seed is not None else islice(walk, (row or 1) - 1, (row or 1) - 1 + n))
        if not chosen:
            raise RequestError(_nothing(walk, row))
        if walk.gave_up and chosen[-1].fault is not None:  # the columns, or an option about them
            raise RequestError(chosen[-1].fault)
        done.said.append(walk.said)
        done.looks += [look for found in chosen for look in _looks(found, viewer, walk)]
    return done


def _looks(found: Found, viewer: Viewer, walk: Walk) -> Iterator[Look]:
    if found.fault is not None:
        yield Look(walk.short(found.where), "cannot be used", trouble=sentence(found.fault, found.where))
    elif not found.documents:
        yield Look(walk.short(found.where), "left out: it holds nothing of the kind that was asked for")
    for document in found.documents:
        look = viewer.look(document)
        look.where = walk.short(look.where)
        yield look


def _drawn(walk: Walk, n: int, seed: int) -> list[Found]:
    """n rows of a source, each set of n as likely as any other (Vitter 1985, algorithm R), in the source's order."""
    rng = random.Random(seed)
    kept: list[tuple[int, Found]] = []
    for number, found in enumerate(walk):
        if len(kept) < n:
            kept.append((number, found))
        elif (at := rng.randrange(number + 1)) < n:
            kept[at] = (number, found)
    return [found for _, found in sorted(kept, key=lambda pair: pair[0])]


def _nothing(walk: Walk, row: int | None) -> Fault:
    name = walk.name
    if row is not None and row > 1:
        return Fault(where="--row", what=f"{name} has no row {row:,}", instead="Write a smaller number.")
    return Fault(where=name, what="there is no row in it", instead="Give one with rows.")
