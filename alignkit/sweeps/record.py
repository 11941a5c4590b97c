"""What sweeps remember beside the runs: which runs they made, which they handed out, what the removed ones scored.

One small file per run key in ROOT/.sweeps. Without it, a sweep that keeps the winner alone would have to train the
losers again to know that they lost, and could not tell a run of its own from one that a person made before.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alignkit.runs.atomic import read_json, write_json
from alignkit.runs.listing import find_runs

FOLDER = ".sweeps"


@dataclass(kw_only=True)
class Record:
    """The memory of one request, by its run's key."""

    key: str
    begun: bool = False
    """A sweep began the run, nothing stood there before, and it is not known to have ended."""
    made: list[str] = field(default_factory=list)
    """Names of the run directories that a sweep made."""
    won: list[str] = field(default_factory=list)
    """Of those, the ones that a sweep gave as its answer: somebody has their path."""
    asked: dict[str, Any] = field(default_factory=dict)
    """What the evaluation was when `metrics` were found."""
    metrics: dict[str, Any] | None = None
    """Scores of the run that a sweep made last; they stay when it is removed."""


class Memory:
    """The records of one root directory of runs."""

    def __init__(self, root: str) -> None:
        self.root = Path(root).expanduser().resolve()

    def of(self, key: str) -> Record:
        """The record of a run key; an empty one when there is none, or it is damaged."""
        found = read_json(self._file(key))
        known = set(Record.__dataclass_fields__)
        if not isinstance(found, dict) or found.get("key") != key or not set(found) <= known:
            return Record(key=key)
        return Record(**found)

    def keep(self, record: Record) -> None:
        """Write a record. Raises RunError when the disk refuses."""
        write_json(self._file(record.key), asdict(record))

    def standing(self, key: str) -> set[str]:
        """Names of the run directories of this key, complete or not."""
        return {info.name for info in find_runs(self.root) if info.run.key == key}

    def _file(self, key: str) -> Path:
        return self.root / FOLDER / f"{key}.json"
