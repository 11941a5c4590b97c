"""Notes about appointments in varied wording, each with its line for a calendar as the answer.

A row is a sentence and ``MM-DD HH:MM occasion``: date and time are said in many ways (the 3rd of March, March 3; half
past two in the afternoon, 2:30 pm, 14:30) and are to be understood, the occasion is to be copied. A person who has read
a few rows gets every one right. The splits share no sentence frame and no occasion. It is the second task beside the
tickets, for merging and for mixtures: both answer a message without an instruction, each in a format of its own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from alignkit.data.appointments.phrases import (
    HELDOUT_FRAMES,
    HELDOUT_OCCASIONS,
    HOURS,
    MONTHS,
    TRAIN_FRAMES,
    TRAIN_OCCASIONS,
)
from alignkit.data.tickets.draw import Deck, Split, below, pick

FRAMES: dict[Split, tuple[str, ...]] = {"train": TRAIN_FRAMES, "heldout": HELDOUT_FRAMES}
OCCASIONS: dict[Split, tuple[str, ...]] = {"train": TRAIN_OCCASIONS, "heldout": HELDOUT_OCCASIONS}
MINUTES = (0, 15, 30, 45)


def generate(rows: int, split: Split, seed: int = 0) -> Iterator[dict[str, Any]]:
    """``rows`` rows ``{"messages": [user, assistant], "answer"}``; fewer rows are the beginning of more rows.

    Raises ValueError when ``split`` is neither ``train`` nor ``heldout``.
    """
    if split not in FRAMES:
        raise ValueError(f"split {split!r} is neither 'train' nor 'heldout'")
    rng = random.Random(f"alignkit appointments {split} {seed}")
    frames, occasions = Deck(rng, FRAMES[split]), Deck(rng, OCCASIONS[split])
    months, hours = Deck(rng, range(12)), Deck(rng, range(8, 20))
    for _ in range(rows):
        month, hour, minute = months.deal(), hours.deal(), pick(rng, MINUTES)
        day, what = 1 + below(rng, 28), occasions.deal()
        said = frames.deal().format(what=what, day=_day(rng, month, day), time=_time(rng, hour, minute))
        answer = f"{month + 1:02}-{day:02} {hour:02}:{minute:02} {what}"
        message = said[0].upper() + said[1:]
        turns = [{"role": "user", "content": message}, {"role": "assistant", "content": answer}]
        yield {"messages": turns, "answer": answer}


def _day(rng: random.Random, month: int, day: int) -> str:
    """A date as people write it."""
    name = MONTHS[month]
    return pick(rng, (f"{name} {day}", f"{day} {name}", f"the {_ordinal(day)} of {name}", f"{name} {_ordinal(day)}"))


def _ordinal(day: int) -> str:
    ending = "th" if 10 < day < 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"


def _time(rng: random.Random, hour: int, minute: int) -> str:
    """A time of day as people write it: 24 hours, am and pm, or words with the part of the day."""
    half = "am" if hour < 12 else "pm"
    part = "in the morning" if hour < 12 else "in the afternoon" if hour < 18 else "in the evening"
    short = f"{(hour - 1) % 12 + 1}"
    clock = pick(rng, ("digits", "half", "words"))
    if clock == "digits":
        return f"{hour}:{minute:02}"
    if clock == "half":
        return f"{short}:{minute:02} {half}" if minute else f"{short} {half}"
    name, following = HOURS[hour % 12], HOURS[(hour + 1) % 12]
    spoken = {0: f"{name} o'clock", 15: f"quarter past {name}", 30: f"half past {name}", 45: f"quarter to {following}"}
    return f"{spoken[minute]} {part}"
