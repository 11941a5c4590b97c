"""Which runs there are, and how each of them stands."""

from __future__ import annotations

import difflib
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from alignkit.errors import Fault, RequestError, RunError
from alignkit.runs.atomic import TEMPORARY
from alignkit.runs.directory import (
    FAILED,
    IDENTITY,
    PARENTS,
    RunDirectory,
    enclosing_run,
    load_run,
    recorded_parents,
)
from alignkit.runs.lock import Holder, holder
from alignkit.runs.manifest import Manifest, Parent, has_manifest, read_manifest, read_previous, read_result

State = Literal["running", "complete", "half done", "failed", "dead", "damaged"]
"""running: a process holds the lock. complete: its manifest stands. half done: the same command goes on from
there. failed: it ended with an error (it may still be resumed). dead: it ended and left nothing to go on
from. damaged: its manifest cannot be read, or the result that it names is gone."""

_NO_PROGRESS = {f"{name}.json" for name in (IDENTITY, PARENTS, FAILED, "resolved")}
"""State files that say what a run is, not that a phase of it is done."""


@dataclass(frozen=True)
class RunInfo:
    """A run and what can be said of it without loading anything."""

    run: RunDirectory

    @property
    def path(self) -> Path:
        return self.run.path

    @property
    def name(self) -> str:
        return self.run.name

    @cached_property
    def state(self) -> State:
        return state_of(self.run)

    @cached_property
    def manifest(self) -> Manifest | None:
        """None while the run is not complete, or when its manifest is damaged."""
        with suppress(RunError):
            return read_manifest(self.path) if has_manifest(self.path) else None
        return None

    @cached_property
    def parents(self) -> tuple[Parent, ...]:
        return recorded_parents(self.run)

    @cached_property
    def former_parents(self) -> tuple[Parent, ...]:
        """Parents by the manifest that was set aside while a part of the run is redone."""
        previous = read_previous(self.path)
        return previous.parents if previous else ()

    @cached_property
    def recipe_text(self) -> str:
        """Its recipe.yaml; empty when there is none."""
        with suppress(OSError):
            return self.run.recipe_file.read_text(encoding="utf-8", errors="replace")
        return ""

    @cached_property
    def holder(self) -> Holder | None:
        return holder(self.path)

    @cached_property
    def failure(self) -> str:
        """The sentence that the run ended with; empty when it did not fail."""
        return str((self.run.read_mark(FAILED) or {}).get("sentence", ""))

    @cached_property
    def size(self) -> int:
        """Bytes on disk."""
        return size_of(self.path)


def find_runs(root: str | os.PathLike[str]) -> list[RunInfo]:
    """All runs under ``root``, newest first. An empty list when the directory is not there."""
    place = Path(root).expanduser()
    if not place.is_dir():
        return []
    entries = (entry.resolve() for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    runs = {run.path: RunInfo(run) for entry in entries if (run := load_run(entry)) is not None}
    return sorted(runs.values(), key=lambda info: (-info.run.created, info.name))


def find_run(root: str | os.PathLike[str], said: str) -> RunInfo:
    """The run that a person meant: a path (RUN, or something in it), its directory's name, or a unique start of it.

    Raises RequestError that says which runs there are when none or more than one fits.
    """
    if os.sep in said or said in (".", "..") or said.startswith("~"):
        if (run := enclosing_run(said)) is None:
            raise RequestError(Fault(where=said, what="this is no run directory", instead=_how_to_list(root)))
        return RunInfo(run)
    runs = {info.name: info for info in find_runs(root)}
    if said in runs:
        return runs[said]
    fitting = sorted(name for name in runs if said and name.startswith(said))
    if len(fitting) == 1:
        return runs[fitting[0]]
    if fitting:
        what = f"{len(fitting)} runs start like this: {', '.join(fitting)}"
        raise RequestError(Fault(where=said, what=what, instead="Write more of the name."))
    if Path(said).is_dir() and (run := enclosing_run(said)) is not None:
        return RunInfo(run)
    near = difflib.get_close_matches(said, runs, n=3, cutoff=0.5)
    instead = f"Did you mean {' or '.join(near)}?" if near else _how_to_list(root)
    raise RequestError(Fault(where=said, what=f"there is no such run in {root}", instead=instead))


def state_of(run: str | os.PathLike[str]) -> State:
    """How a run stands; see ``State``. Only looks: no lock is kept, nothing is written."""
    path = Path(run)
    if holder(path) is not None:
        return "running"
    if has_manifest(path):
        try:
            read_result(path)
        except RunError:
            return "damaged"
        return "complete"
    if (path / "state" / f"{FAILED}.json").is_file():
        return "failed"
    return "half done" if has_progress(path) else "dead"


def has_progress(run: str | os.PathLike[str]) -> bool:
    """Whether an incomplete run left something to go on from: a model, a checkpoint, a phase that is marked done."""
    path = Path(run)
    if (path / "model").is_dir() or read_previous(path) is not None:
        return True
    saved = (path / "checkpoints").iterdir() if (path / "checkpoints").is_dir() else ()
    if any(not entry.name.startswith(".") and TEMPORARY not in entry.name for entry in saved):
        return True
    marks = (path / "state").glob("*.json")
    return any(mark.name not in _NO_PROGRESS and not mark.name.startswith(".") for mark in marks)


def size_of(path: Path) -> int:
    """Bytes of the files below ``path``; links are not followed, and a file with two names counts once."""
    seen = set()
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                status = Path(folder, name).lstat()
            except OSError:
                continue  # a running process removed it
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += status.st_size
    return total


def _how_to_list(root: str | os.PathLike[str]) -> str:
    return f"`alignkit runs --root {root}` lists what there is."
