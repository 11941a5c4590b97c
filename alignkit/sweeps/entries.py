"""The points of a sweep and what became of them, as Python and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from alignkit.config.compose import Composed
from alignkit.config.grid import Point
from alignkit.sweeps.figures import Measure, flat, in_json


@dataclass(kw_only=True)
class Entry:
    """One point and what became of it."""

    point: Point
    composed: Composed
    state: Literal["open", "done", "removed", "failed"] = "open"
    """done: its run stands. removed: it lost, and only its figures are left. failed: see `error`."""
    run: Path | None = None
    path: Path | None = None
    """Its result, while it stands."""
    key: str = ""
    reused: bool = False
    metrics: dict[str, Any] | None = None
    value: float | None = None
    """The figure that is compared; None: it has none."""
    error: str = ""

    def values(self) -> dict[str, Any]:
        """The swept keys with the values that the recipe has for them; the text for what is no value (`data=…`)."""
        return {key: _typed(self.composed.values, key, text) for key, text in self.point.swept.items()}

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "values": self.values(),
            "state": self.state,
            "value": in_json(self.value),
            "path": str(self.path) if self.path else None,
            "key": self.key,
            "run": str(self.run) if self.run else None,
            "reused": self.reused,
            "figures": {name: in_json(value) for name, value in flat(self.metrics or {}).items()},
            **({"error": self.error} if self.error else {}),
        }


@dataclass(kw_only=True)
class Comparison:
    """What a sweep gives."""

    entries: list[Entry]
    measure: Measure = field(default_factory=Measure)
    settled: bool = False
    """Whether a run that is done has the figure of `measure`."""
    winner: Entry | None = None

    @property
    def failed(self) -> list[Entry]:
        """The points without a result."""
        return [entry for entry in self.entries if entry.state == "failed"]

    def failure(self) -> str:
        """One sentence on the points that failed; empty when none did."""
        if not self.failed:
            return ""
        again = "The same command tries them again and keeps the others."
        return f"{len(self.failed)} of {len(self.entries)} points failed. {again}"

    def as_dict(self) -> dict[str, Any]:
        """The winner as `train` gives it, what it was chosen by, and every point; plain JSON values."""
        best = self.winner
        return {
            "path": str(best.path) if best else None,
            "key": best.key if best else None,
            "run": str(best.run) if best else None,
            "reused": best.reused if best else False,
            "metrics": best.metrics if best else {},
            "values": best.values() if best else {},
            "by": {"name": self.measure.name, "better": self.measure.better},
            "points": [{**entry.as_dict(), "best": entry is best} for entry in self.entries],
        }


def _typed(values: Any, key: str, text: str) -> Any:
    """The value that a recipe has under a dotted key; `text` where the key is a section or none of the recipe's."""
    for step in key.lstrip("+").split("."):
        if not isinstance(values, dict) or step not in values:
            return text
        values = values[step]
    return text if isinstance(values, dict) else values
