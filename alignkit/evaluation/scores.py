"""What an evaluation found, in a form that goes into a manifest and comes back. No torch in here."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any


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


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of one model on held-out rows."""

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

    def as_dict(self) -> dict[str, Any]:
        """Valid JSON: floats that JSON has no word for are written as "inf" and "nan"."""
        plain = asdict(self)
        plain["loss"], plain["perplexity"] = _to_json(self.loss), _to_json(self.perplexity)
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


def headline(before: Scores | None, after: Scores | None) -> dict[str, Any] | None:
    """The one figure to show in a listing: the exact match where both have one, else the held-out loss."""
    known = [scores for scores in (before, after) if scores is not None]
    if not known:
        return None
    name = "exact_match" if all(scores.graded for scores in known) else "loss"
    figures = [None if scores is None else getattr(scores, name) for scores in (before, after)]
    return {"name": name, "before": _to_json(figures[0]), "after": _to_json(figures[1])}


def wilson(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
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


def _to_json(value: float | None) -> float | str | None:
    """JSON has no infinity and no NaN."""
    return value if value is None or math.isfinite(value) else str(value)
