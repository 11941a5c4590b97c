"""The figures among a run's metrics, and which of them says that one run is better than another."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from alignkit.errors import Fault, RequestError

Better = Literal["lower", "higher"]

_LOWER = {"loss", "perplexity", "nll", "kl", "divergence", "drift", "distance", "error", "errors", "bytes", "memory"}
_HIGHER = {
    "accuracy",
    "match",
    "correct",
    "found",
    "reward",
    "rewards",
    "margin",
    "margins",
    "win",
    "energy",
    "similarity",
    "f1",
}
"""Words of a figure's name that say which way is better. `chosen_reward_loss` is a loss, so the first set goes first.
Lengths and shares of what nobody knows are in neither: there the person says `min:` or `max:`."""

_MARKS: dict[str, Better] = {"min": "lower", "max": "higher"}
_NO_RESULT = frozenset({"seconds"})
"""Figures that cost, and do not compare, what was made."""


@dataclass(frozen=True)
class Measure:
    """What runs are compared by. `better` is known, `name` is empty while it is the headline of whatever runs."""

    name: str = ""
    better: Better | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.better} is better)"

    @classmethod
    def read(cls, text: str | None) -> Measure:
        """`--by`: NAME, min:NAME or max:NAME; None: the headline. Raises RequestError when the direction is not known.

        NAME is that of a scored figure (loss), or where it stands in the metrics (training.loss_last).
        """
        if text is None:
            return cls()
        mark, colon, name = text.partition(":")
        if colon and mark in _MARKS and name:
            return cls(name, _MARKS[mark])
        better = direction(text)
        if better is None:
            raise RequestError(
                Fault(
                    where=f"--by {text}",
                    what="whether high or low is better is not known of it",
                    instead=f"Write --by max:{text} or --by min:{text}.",
                )
            )
        return cls(text, better)

    def settled(self, metrics: Mapping[str, Any]) -> Measure:
        """Itself with a name and a direction, by the metrics of the first run that is done.

        Raises RequestError when that run has no such figure, or nothing says which way its headline is better.
        """
        name = self.name or headline_name(metrics)
        if not name:
            raise RequestError(
                Fault(
                    where="--sweep",
                    what="the first run was not scored, so nothing says which run is the best",
                    instead="Let it evaluate (evaluation.rows, data.holdout), or name another figure with --by"
                    + (f": {', '.join(_names(metrics))}." if _names(metrics) else "."),
                )
            )
        if find(name, metrics) is None:
            several = _places(name, flat(metrics))
            raise RequestError(
                Fault(
                    where=f"--by {name}",
                    what="the first run has several such figures" if several else "the first run has no such figure",
                    instead=f"There are: {', '.join(several or _names(metrics)) or 'none'}.",
                )
            )
        return Measure(name, self.better) if self.better else Measure.read(name)

    def value(self, metrics: Mapping[str, Any]) -> float | None:
        """The figure of one run; None when it has none."""
        return find(self.name, metrics)

    def prefers(self, one: float, other: float) -> bool:
        """Whether the one figure is truly better than the other."""
        return one < other if self.better == "lower" else one > other


def direction(name: str) -> Better | None:
    """Which way is better, by the words of a figure's name; None when they do not say."""
    words = set(re.split(r"[\W_]+", name.rpartition(".")[2].lower()))
    return "lower" if words & _LOWER else "higher" if words & _HIGHER else None


def flat(metrics: Mapping[str, Any], above: str = "") -> dict[str, float]:
    """Every number with its dotted place. Numbers that JSON has no word for stand there as text and are numbers too."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{name}.")
        elif (isinstance(value, int | float) and not isinstance(value, bool)) or value in ("inf", "-inf", "nan"):
            found[f"{above}{name}"] = float(value)
    return found


def find(name: str, metrics: Mapping[str, Any]) -> float | None:
    """The figure of that name: by its full place, among the scores, or wherever it stands alone; else None."""
    figures = flat(metrics)
    headline = metrics.get("headline")
    for place in (name, f"after.{name}", f"headline.{name}"):
        if place in figures:
            return figures[place]
    if isinstance(headline, Mapping) and headline.get("name") == name:
        return figures.get("headline.after")
    places = _places(name, figures)
    return figures[places[0]] if len(places) == 1 else None


def started(name: str, metrics: Mapping[str, Any]) -> float | None:
    """The same figure of what the run started from; None where that was not scored."""
    figures, headline = flat(metrics), metrics.get("headline")
    if isinstance(headline, Mapping) and headline.get("name") == name:
        return figures.get("headline.before")
    return figures.get(f"before.{name.removeprefix('after.')}")


def _places(name: str, figures: Mapping[str, float]) -> list[str]:
    return [place for place in figures if place.endswith(f".{name}") and not place.startswith("before.")]


def headline_name(metrics: Mapping[str, Any]) -> str:
    """The figure that the stage shows first; empty when it scored nothing."""
    headline = metrics.get("headline")
    if not isinstance(headline, Mapping) or not headline:
        return ""
    if "name" in headline:
        return str(headline["name"]) if headline.get("after") is not None else ""
    return next((str(name) for name in headline if f"headline.{name}" in flat(metrics)), "")


def compared(measure: Measure, metrics: Mapping[str, Any]) -> list[str]:
    """Names of the figures that a table shows of one run: the measure first, then its headline and its scores.

    Scores may name themselves what of them is worth comparing (`compare`), and beside them any figure of the run by
    its place (`training.seconds`). Else it is all of them but counts: whole numbers say how much was looked at, not
    what was found.
    """
    names: list[str] = []
    everything = flat(metrics)
    for when in ("after", "headline"):
        section = metrics.get(when)
        if not isinstance(section, Mapping) or "name" in section:
            continue
        figures = flat(section)
        chosen = section.get("compare", section)
        names += [
            str(name)
            for name in chosen
            if (isinstance(section.get(name), float | str) and name in figures and name not in _NO_RESULT)
            or ("compare" in section and "." in name and name in everything)
        ]
    return list(dict.fromkeys([measure.name, *(name for name in names if name != measure.name.removeprefix("after."))]))


def interval(name: str, metrics: Mapping[str, Any], when: str = "after") -> tuple[float, float] | None:
    """The 95% interval of a score; None where the scores have none of it."""
    scores = metrics.get(when)
    found = scores.get(f"{name.removeprefix('after.')}_interval") if isinstance(scores, Mapping) else None
    return (float(found[0]), float(found[1])) if isinstance(found, list) and len(found) == 2 else None


def shown(value: float | None) -> str:
    """Four digits that mean something; `-` for what is not there."""
    return "-" if value is None else f"{value:#.4g}"


def in_json(value: float | None) -> float | str | None:
    """JSON has no infinity and no NaN."""
    return value if value is None or math.isfinite(value) else str(value)


def _names(metrics: Mapping[str, Any]) -> list[str]:
    """What `--by` may name: scores by their own name, the rest by place."""
    figures = [name for name in flat(metrics) if not name.startswith("before.")]
    return [name.removeprefix("after.") for name in figures if name not in ("headline.before", "headline.after")]
