"""Texts that hide something and ask for it, generated: a number, one key of several, a chain of variables.

Words only: how many tokens a text has is the tokenizer's to say (`fitted`), so that any will do. All are functions of a
random generator and of the number of filler sentences.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

FILLER = (
    " The river runs low.",
    " A bird sits on the wall.",
    " The road goes on and on.",
    " Rain may come at night.",
    " The hill is green.",
)
_WHO = ("The baker", "My neighbour", "A tall guard", "The old clerk", "Her uncle", "The young nurse", "A sailor")
_DID = ("painted", "sold", "found", "mended", "carried", "forgot", "washed", "drew")
_WHAT = ("a blue chair", "the garden gate", "two baskets", "an iron lamp", "the long coat", "a map", "some bread")
_WHEN = ("in spring", "before noon", "on Monday", "after the fair", "last week", "in the rain")
_KINDS = ("amber", "brave", "calm", "dusty", "early", "faint", "grand", "hollow", "ivory", "jolly", "keen", "lunar")
_THINGS = ("anchor", "bridge", "candle", "dragon", "engine", "falcon", "garden", "harbor", "island", "jacket", "kettle")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Task:
    """A text that ends where the answer begins."""

    text: str
    answers: tuple[str, ...]
    """What was hidden: one number, or the names of a chain."""
    kind: Literal["passkey", "needle", "chain"]
    asked: str
    """In words, for a list of answers."""

    @property
    def continuation(self) -> str:
        """How the text goes on: what a model should write, and what one could be trained on."""
        return " " + ", ".join(self.answers)

    def found(self, written: str) -> float:
        """The share of what was hidden that stands in what a model wrote.

        Numbers count where they stand alone, without further digits. Of names as many count as there are to be found,
        the first ones: who lists all that stand in the text finds no more than the others do.
        """
        if self.kind != "chain":
            return float(re.search(rf"(?<!\d){self.answers[0]}(?!\d)", written) is not None)
        named = list(dict.fromkeys(re.findall(r"\b[A-Z]{3}\b", written)))[: len(self.answers)]
        return len(set(named) & set(self.answers)) / len(self.answers)


def passkey(rng: Random, filler: int, depth: float) -> Task:
    """A number at a depth (0 to 1) of a text that repeats itself, as Mohtashami and Jaggi 2023 ("Landmark Attention",
    section 4.2) do."""
    key = _number(rng, 5)
    at = round(depth * filler)
    lines = [FILLER[number % len(FILLER)] for number in range(filler)]
    text = "".join(
        [
            "A secret number is hidden in this text. Keep it in mind.\n",
            *lines[:at],
            f"\nThe secret number is {key}. Remember it: {key}.\n",
            *lines[at:],
            "\nWhat is the secret number? The secret number is",
        ]
    )
    return Task(text, (key,), "passkey", f"the secret number at {100 * depth:.0f}% of the text")


def several_keys(rng: Random, filler: int, keys: int) -> list[Task]:
    """One text with several keys of one form, and a task for each of them: the others distract (Hsieh et al. 2024,
    "RULER", section 3, multi-key needles). All tasks share their text up to the question."""
    names = rng.sample([f"{kind} {thing}" for kind in _KINDS for thing in _THINGS], keys)
    codes = _different(rng, keys, 7)
    hidden = [f" The code of the {name} is {code}." for name, code in zip(names, codes, strict=True)]
    text = "Some codes are hidden in this text. Keep them in mind.\n" + _spread(rng, filler, hidden)
    return [
        Task(
            f"{text}\nWhat is the code of the {name}? The code of the {name} is",
            (code,),
            "needle",
            f"the code of the {name}, one of {keys}",
        )
        for name, code in zip(names, codes, strict=True)
    ]


def chain(rng: Random, filler: int, hops: int) -> Task:
    """A value that is handed from variable to variable, and a second such chain with another value that distracts
    (Hsieh et al. 2024, "RULER", section 3, variable tracking); asked for are all variables with the first value."""
    names = _names(rng, 2 * (hops + 1) + 2)
    values = _different(rng, 3, 5)
    shown, names = names[:2], names[2:]
    own, other = names[: hops + 1], names[hops + 1 :]
    hidden = []
    for step in range(hops + 1):
        pair = [_assignment(line, step, value) for line, value in ((own, values[0]), (other, values[1]))]
        rng.shuffle(pair)
        hidden += pair
    example = (
        f"VAR {shown[0]} = {values[2]}. VAR {shown[1]} = VAR {shown[0]}.\n"
        f"The variables with the value {values[2]} are {shown[0]}, {shown[1]}.\n\n"
    )
    text = f"{example}{_spread(rng, filler, hidden)}\nThe variables with the value {values[0]} are"
    return Task(text, tuple(own), "chain", f"the {len(own)} variables with the value {values[0]}")


def fitted(make: Callable[[int], str], count: Callable[[str], int], limit: int) -> int | None:
    """The largest number of filler sentences whose text has at most ``limit`` tokens; None where none has."""
    empty = count(make(0))
    if empty > limit:
        return None
    each = max(1.0, (count(make(64)) - empty) / 64)
    filler = int((limit - empty) / each)
    while filler and (over := count(make(filler)) - limit) > 0:
        filler = max(0, filler - max(1, int(over / (2 * each))))
    while count(make(filler + 1)) <= limit:
        filler += 1
    return filler


def _spread(rng: Random, filler: int, hidden: Sequence[str]) -> str:
    """Different sentences with the hidden ones among them, in their order, each somewhere in a part of its own."""
    parts = [f" {rng.choice(_WHO)} {rng.choice(_DID)} {rng.choice(_WHAT)} {rng.choice(_WHEN)}." for _ in range(filler)]
    places = [int((number + rng.random()) * (filler + 1) / len(hidden)) for number in range(len(hidden))]
    for place, line in reversed(list(zip(places, hidden, strict=True))):
        parts.insert(place, line)
    return "".join(parts)


def _assignment(names: Sequence[str], step: int, value: str) -> str:
    return f" VAR {names[step]} = {f'VAR {names[step - 1]}' if step else value}."


def _number(rng: Random, digits: int) -> str:
    return str(rng.randrange(10 ** (digits - 1), 10**digits))


def _different(rng: Random, count: int, digits: int) -> list[str]:
    return [str(number) for number in rng.sample(range(10 ** (digits - 1), 10**digits), count)]


def _names(rng: Random, count: int) -> list[str]:
    """Different names of three letters; VAR is none."""
    found: dict[str, None] = {}
    while len(found) < count:
        name = "".join(rng.choice(_LETTERS) for _ in range(3))
        if name != "VAR":
            found[name] = None
    return list(found)
