"""Sentence frames: text with alternatives in brackets and named slots in braces.

``"[Please send|Send] {it} back."`` has two expansions, and each has a slot ``it``. Brackets do not nest.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator

from alignkit.data.tickets.draw import below, pick

_ALTERNATIVES = re.compile(r"\[([^\]]*)\]")

_SHORT_FORMS = (
    ("do not", "don't"),
    ("does not", "doesn't"),
    ("did not", "didn't"),
    ("is not", "isn't"),
    ("was not", "wasn't"),
    ("has not", "hasn't"),
    ("have not", "haven't"),
    ("will not", "won't"),
    ("cannot", "can't"),
    ("I am", "I'm"),
    ("I have", "I've"),
    ("there is", "there's"),
)


def expand(frame: str, rng: random.Random) -> str:
    """The frame with one alternative taken in each bracket, and now and then in short forms (``don't``)."""
    text = _ALTERNATIVES.sub(lambda match: pick(rng, match[1].split("|")), frame)
    if below(rng, 2):
        for long, short in _SHORT_FORMS:
            text = re.sub(rf"\b{long}\b", short, text)
    return text


def expansions(frame: str) -> Iterator[str]:
    """Every text that the brackets allow, in long forms, slots left in."""
    pieces = _ALTERNATIVES.split(frame)  # literal text at even places, alternatives at odd ones
    choices = [piece.split("|") if place % 2 else [piece] for place, piece in enumerate(pieces)]
    yield from ("".join(parts) for parts in itertools.product(*choices))


def capitalized(text: str) -> str:
    """``text`` with its first letter in upper case and the rest untouched."""
    return text[:1].upper() + text[1:]
