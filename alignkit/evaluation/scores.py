"""What an evaluation found, in a form that goes into a manifest and comes back. No torch in here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, Protocol


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of an evaluation, as a person is to see it."""

    name: str
    """In words: "exact match"."""
    value: float
    text: str = ""
    """In place of the number: "83 of 100"."""
    change: Literal["difference", "ratio", "points", ""] = "difference"
    """How two of them are compared; points: hundredths of a share."""
    better: Literal["lower", "higher"] | None = None
    interval: tuple[float, float] | None = None
    """95% interval, in the unit of the value."""
    signed: bool = False
    """Whether it is a change by itself, so that the ends of its interval have signs."""

    @property
    def share(self) -> bool:
        """Whether the number is a share and is shown in per cent."""
        return self.change == "points"


@dataclass(frozen=True, kw_only=True)
class Graded:
    """One generated answer beside what was expected."""

    prompt: str
    """The last thing that was said to the model."""
    reference: str | None
    answer: str
    correct: bool | None
    """None where no comparison makes sense."""
    finished: bool
    """False: the model was cut off at `max_new_tokens`."""
    where: str
    """File and line of the row."""


class Scored(Protocol):
    """What an evaluation found, whatever the stage: enough for a table, a model card, a manifest and a listing."""

    @property
    def rows(self) -> int: ...

    @property
    def answers(self) -> list[Graded]: ...

    def figures(self) -> list[Figure]:
        """What is shown, in that order."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """Valid JSON; ``from_metrics`` gives the scores back."""
        ...


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of one model on held-out demonstrations."""

    headlines: ClassVar[tuple[str, ...]] = ("exact_match", "loss")
    """Attributes to show in a listing, the best first; taken is the first that every model in question has."""

    rows: int
    """Rows scored."""
    labelled_tokens: int
    """Tokens that the loss is a mean of."""
    loss: float
    """Nats per labelled token."""
    perplexity: float
    """exp(loss); inf where that overflows."""
    graded: int = 0
    """Answers compared with a reference."""
    correct: int = 0
    """Of those, how many matched exactly."""
    answers: list[Graded] = field(default_factory=list)
    """Answers to show: the first rows, the same ones before and after."""
    seconds: float = 0.0
    """Wall time that the evaluation took."""

    @property
    def exact_match(self) -> float | None:
        """Share of the graded answers that matched; None where nothing was graded."""
        return self.correct / self.graded if self.graded else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95% interval of the exact match."""
        return wilson(self.correct, self.graded) if self.graded else None

    def figures(self) -> list[Figure]:
        found = [
            Figure(name="loss", value=self.loss, better="lower"),
            Figure(name="perplexity", value=self.perplexity, change="ratio", better="lower"),
        ]
        if self.exact_match is not None:
            found.append(exact_match_figure(self.correct, self.graded))
        return found

    def as_dict(self) -> dict[str, Any]:
        """Valid JSON: floats that JSON has no word for are written as "inf" and "nan"."""
        plain = asdict(self)
        plain["loss"], plain["perplexity"] = to_json(self.loss), to_json(self.perplexity)
        plain["seconds"] = round(self.seconds, 3)
        plain["exact_match"] = self.exact_match
        plain["exact_match_interval"] = list(self.interval) if self.interval else None
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Scores:
        """The inverse of `as_dict`; what is derived from the counts is derived again."""
        kept = {name: plain[name] for name in ("rows", "labelled_tokens", "graded", "correct", "seconds")}
        answers = [Graded(**answer) for answer in plain["answers"]]
        return cls(**kept, loss=float(plain["loss"]), perplexity=float(plain["perplexity"]), answers=answers)


def exact_match_figure(correct: int, graded: int) -> Figure:
    """Exact match as a figure. ``graded`` is at least 1."""
    return Figure(
        name="exact match",
        value=correct / graded,
        text=f"{correct} of {graded}",
        change="points",
        better="higher",
        interval=wilson(correct, graded),
    )


def headline(before: Any | None, after: Any | None) -> dict[str, Any] | None:
    """The one figure to show in a listing, of scores of one kind: the first of their ``headlines`` that all have."""
    known = [scores for scores in (before, after) if scores is not None]
    if not known:
        return None
    names: Sequence[str] = known[0].headlines
    shared = [name for name in names if all(getattr(scores, name) is not None for scores in known)]
    name = shared[0] if shared else names[-1]
    figures = [None if scores is None else getattr(scores, name) for scores in (before, after)]
    return {"name": name, "before": to_json(figures[0]), "after": to_json(figures[1])}


def wilson(successes: float, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Score interval of a share (Wilson 1927), 95% by default. Unlike the plain normal one it never leaves [0, 1] and
    has a width at 0 of n and n of n.

    Raises:
        ValueError: no trials.
    """
    if trials < 1:
        raise ValueError("an interval needs at least one trial")
    share = successes / trials
    spread = z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    # At the ends the bound is the end itself, but for rounding.
    return centre - half if successes else 0.0, centre + half if successes < trials else 1.0


def to_json(value: float | None) -> float | str | None:
    """JSON has no infinity and no NaN."""
    return value if value is None or math.isfinite(value) else str(value)
