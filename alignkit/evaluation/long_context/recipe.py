"""What the long-context suite measures, and how much of it. No torch in here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Le

from alignkit.config.sections import Data, DataSource, Model
from alignkit.errors import Fault
from alignkit.evaluation.recipe import ChatRecipe

WHOLE = 2**31 - 1
"""A length that cuts no document."""
SHORTEST = 16
"""Tokens below which a window has nothing to say about context."""


@dataclass(kw_only=True)
class Suite:
    """What is measured, at which lengths. The defaults are a first look; each count makes it surer and slower."""

    name: Literal["long-context"] = "long-context"
    """The suite."""
    lengths: list[int] | None = None
    """Lengths in tokens at which everything is measured; null: a quarter and a half of the model's window, the window,
    and twice the window (no further where positions end there)."""
    text: DataSource | None = None
    """Long documents for the perplexity, as a path, a glob or a hub name. Null: perplexity is left out."""
    windows: Annotated[int, Ge(1)] = 2
    """Places in the text whose perplexity is measured, spread evenly; the same ones at every length."""
    stride: Annotated[int, Ge(1)] = 256
    """Tokens scored at each place, the last ones of the window that is read (Press et al. 2022, appendix B); at most
    half of the shortest length."""
    depths: Annotated[int, Ge(1), Le(101)] = 5
    """Depths of the passkey in the text, evenly from the beginning to the end; 1: the middle."""
    passkeys: Annotated[int, Ge(0)] = 1
    """Passkeys asked for at each depth and length (Mohtashami and Jaggi 2023); 0: none."""
    needles: Annotated[int, Ge(0)] = 1
    """Texts with several keys at each length, each key asked for (Hsieh et al. 2024, multi-key); 0: none."""
    keys: Annotated[int, Ge(1), Le(64)] = 4
    """Keys in such a text: one is asked for, the others distract."""
    chains: Annotated[int, Ge(0)] = 1
    """Texts with a chain of variables at each length (Hsieh et al. 2024, variable tracking); 0: none."""
    hops: Annotated[int, Ge(1), Le(16)] = 4
    """Assignments that hand the value on in such a text, which then names hops + 1 variables."""
    short: DataSource | None = None
    """Rows whose answers a short context is enough for: what stretching must not cost. Their loss is measured, and the
    exact match where they have answers to compare. Null: only the perplexity of the text at short lengths is."""
    short_rows: Annotated[int, Ge(1)] = 20
    """The first so many of these rows."""
    seed: int = 7
    """Decides keys, values and names. The same ones before and after, whatever the seed of a training."""

    def faults(self, where: str = "suite") -> Iterator[Fault]:
        """Values that cannot be measured."""
        if self.lengths is not None and not self.lengths:
            yield Fault(where=f"{where}.lengths", what="is empty", instead="Write lengths, such as [2048,4096].")
        for length in self.lengths or []:
            if length < SHORTEST:
                yield Fault(
                    where=f"{where}.lengths",
                    what=f"{length} tokens are too short to measure anything",
                    instead=f"Write lengths of at least {SHORTEST} tokens.",
                )
        if self.text is None and not (self.passkeys or self.needles or self.chains):
            yield Fault(
                where=f"{where}.text",
                what="there is no text, and passkeys, needles and chains are 0: nothing is measured",
                instead=f"Write {where}.text=./novel.txt, or {where}.passkeys=1.",
            )

        for key, source in {"text": self.text, "short": self.short}.items():
            if source is None:
                continue
            for name, default in (("weight", None), ("repeat", 1.0)):
                if getattr(source, name) != default:
                    what = "is set, and there is no mixture that it could count in"
                    yield Fault(where=f"{where}.{key}.{name}", what=what, instead="Leave it out.")
        if self.short is not None and self.short.limit is not None:
            what = f"is set, and {where}.short_rows says how many rows are taken"
            yield Fault(where=f"{where}.short.limit", what=what, instead=f"Write {where}.short_rows.")

    def chosen_lengths(self, window: int | None, *, further: bool = True) -> list[int]:
        """The lengths to measure, ascending and each once.

        Args:
            window: the model's own window in tokens (of a stretched one: the new); None: not known.
            further: whether there are positions beyond the window.
        """
        if self.lengths is not None:
            return sorted(set(self.lengths))
        window = window or 4096
        found = {max(SHORTEST, window // 4), max(SHORTEST, window // 2), window}
        return sorted(found | ({2 * window} if further else set()))

    def sections(self) -> dict[str, Data]:
        """The data that it reads, by key: whole rows, none of them held out."""
        given = {"text": (self.text, None), "short": (self.short, self.short_rows)}
        return {
            key: _whole(source, rows or source.limit) for key, (source, rows) in given.items() if source is not None
        }


def _whole(source: DataSource, rows: int | None) -> Data:
    return Data(
        name=source.name,
        split=source.split or "train",
        config=source.config,
        revision=source.revision,
        format=source.format,
        columns=source.columns,
        map=source.map,
        system=source.system,
        rows=rows,
        max_length=WHOLE,
        holdout=0,
    )


@dataclass(kw_only=True)
class LongContextEvalRecipe(ChatRecipe):
    """Which model to measure with the suite, and beside which other one."""

    stage: str = "eval"
    suite: Suite = field(default_factory=Suite)
    reference: Model | None = None
    """The model before it was stretched: measured at the same lengths, as `before`."""
    pictures: str | None = None
    """Directory for the plots (perplexity.png, retrieval.png); null: in the terminal only."""

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        yield from self.suite.faults()
