"""A run directory as the processes beside rank 0 have it: they read it, and write nothing into it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from alignkit.runs.directory import RunDirectory
from alignkit.runs.manifest import Parent


class FollowedRun(RunDirectory):
    """What rank 0 writes stands; what a follower would write is let go."""

    @classmethod
    def of(cls, run: RunDirectory) -> FollowedRun:
        """The same run, followed."""
        return cls(**{one.name: getattr(run, one.name) for one in fields(RunDirectory)})

    def write(self, name: str, text: str) -> None:
        """Nothing."""

    def mark(self, name: str, payload: Mapping[str, Any] | None = None) -> None:
        """Nothing."""

    def clear_mark(self, name: str) -> None:
        """Nothing."""

    def record_parents(self, parents: Iterable[Parent]) -> None:
        """Nothing."""

    def fail(self, sentence: str) -> None:
        """Nothing."""

    def append_metrics(self, values: Mapping[str, Any]) -> None:
        """Nothing."""

    def truncate_metrics(self, after_step: int) -> None:
        """Nothing."""
