"""`key=a,b,c` words into the points of a grid: what `--sweep` asks for.

A comma that stands outside of quotes and brackets parts two values, whatever type the key is of, so `dpo.beta=0.1,0.5`,
`'merge.weights=[1,2],[2,1]'` and `adapter=lora,dora` are all read without knowing the recipe. Text that holds a comma
itself is put in quotes of its own: `'data.system="Hello, world"'`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from alignkit.config.overrides import ORIGIN
from alignkit.errors import Fault

RECIPE = "recipe"
_OPENING, _CLOSING = "[{(", "]})"


@dataclass(frozen=True)
class Point:
    """One of the requests that a sweep stands for."""

    recipe: str
    overrides: tuple[str, ...]
    """All words, with one value each."""
    swept: dict[str, str] = field(default_factory=dict)
    """The keys that differ between points, in the order typed, and the text that this point has for each."""

    def __str__(self) -> str:
        return " ".join(f"{key}={text}" for key, text in self.swept.items())


def expand(recipe: str, words: Sequence[str]) -> tuple[list[Point], list[Fault]]:
    """Every combination of the values given, the last key changing fastest; and what is wrong with the words.

    `recipe` may hold several names too. Words without `=` are left to the reader of a single request, which knows how
    to refuse them.
    """
    split = [(RECIPE, values(recipe)), *((word.partition("=")[0], values(word.partition("=")[2])) for word in words)]
    swept = [key for key, texts in split if len(texts) > 1]
    faults = list(_faults(split, swept))
    if faults:
        return [], faults
    points = []
    for chosen in product(*(texts for _, texts in split)):
        name, *texts = chosen
        told = {key: text for (key, _), text in zip(split, chosen, strict=True) if key in swept}
        overrides = (
            f"{key}={text}" if key in swept else word
            for (key, _), text, word in zip(split[1:], texts, words, strict=True)
        )
        points.append(Point(name, tuple(overrides), told))
    return points, []


def values(text: str) -> list[str]:
    """The texts between the commas that stand outside of quotes and brackets; one text as it is when there are none.

    A quote counts only where a value begins, so an apostrophe in a sentence opens nothing; a bracket that is never
    closed keeps the rest of the text together.
    """
    parts, depth, quote, last = [""], 0, "", ","
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote and text[place - 1] != "\\" else quote
        elif letter in "'\"" and last in ",[{(:":
            quote = letter
        elif letter in _OPENING:
            depth += 1
        elif letter in _CLOSING:
            depth = max(0, depth - 1)
        elif letter == "," and not depth:
            parts.append("")
            last = letter
            continue
        last = letter if not letter.isspace() else last
        parts[-1] += letter
    return [part.strip() for part in parts] if len(parts) > 1 else [text]


def _faults(split: Sequence[tuple[str, list[str]]], swept: Sequence[str]) -> Iterator[Fault]:
    if not swept:
        yield Fault(
            where="--sweep",
            what="no key has several values",
            instead="Write them with commas between: optimizer.learning_rate=1e-4,2e-4.",
        )
    for key in dict.fromkeys(swept):
        where = f"{key} (from the {ORIGIN})"
        texts = next(texts for name, texts in split if name == key and len(texts) > 1)
        if sum(name == key for name, _ in split) > 1:
            yield Fault(where=where, what="is given twice", instead="Write all of its values in one word.")
        elif "" in texts:
            yield Fault(where=where, what="one of its values is empty", instead=f"Write {key}=A,B; for none, null.")
        elif twice := sorted({text for text in texts if texts.count(text) > 1}):
            yield Fault(where=where, what=f"{', '.join(twice)} is there twice", instead="Write each value once.")
