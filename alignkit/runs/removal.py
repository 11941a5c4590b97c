"""Taking runs away without taking the ground from under another.

A run is not removed while something that was made from it stands. What was made from what is read from
the manifests, from what unfinished runs recorded at their start, and from their recipes.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from alignkit.errors import Fault, RequestError, RunError
from alignkit.runs.directory import UNBORN, RunDirectory
from alignkit.runs.listing import RunInfo, find_runs, has_progress, size_of
from alignkit.runs.lock import RunLock, holder
from alignkit.runs.manifest import Parent, has_manifest

_REMOVED = ".removed-"
"""Start of the name that a directory takes before its files go: a half-removed run is no run any more."""

_STALE_SECONDS = 3600.0
"""A directory in the making that is older than this was left by a killed process."""


@dataclass(frozen=True)
class Child:
    """A run that stands on another. ``why`` says how it is known."""

    run: RunDirectory
    why: str


@dataclass(frozen=True)
class Removal:
    """One thing that ``prune`` takes away, and the bytes that it frees."""

    path: Path
    why: str
    size: int
    run: Path | None
    """The run whose lock is held meanwhile; None for leftovers that belong to none."""


def children_of(run: RunDirectory, among: Sequence[RunInfo] | None = None, *, part: str = "") -> list[Child]:
    """The runs (``among`` these; None: all in the run's root directory) that stand and were made from this one.

    ``part`` narrows it to what was made from one folder of the run (``"checkpoints"``). A run stands unless it
    ended and left nothing to go on from.
    """
    found = []
    for info in find_runs(run.path.parent) if among is None else among:
        if info.path == run.path or not _stands(info):
            continue
        why = _made_from(info, run, part)
        if why:
            found.append(Child(info.run, why))
    return found


def check_removal(runs: Sequence[RunDirectory]) -> None:
    """Raises RequestError when one of the runs is in use, or another that stands and does not go was made from it."""
    going = {run.path for run in runs}
    faults = []
    for run in runs:
        if (user := holder(run.path)) is not None:
            faults.append(Fault(where=run.name, what=f"it is in use by {user}", instead="Stop that first."))
        children = [child for child in children_of(run) if child.run.path not in going]
        if children:
            names = ", ".join(f"{child.run.name} ({child.why})" for child in children)
            faults.append(Fault(where=run.name, what=f"made from it, and still there: {names}", instead=_FIRST))
    if faults:
        raise RequestError(faults)


def remove(runs: Sequence[RunDirectory]) -> int:
    """Remove whole runs; returns the bytes freed. Parent and child may go together.

    Raises RequestError as ``check_removal`` does, before anything is removed.
    """
    check_removal(runs)
    freed = 0
    for run in runs:
        with suppress(FileNotFoundError):
            size = size_of(run.path)
            with RunLock(run.path):
                _take_away(run.path)
            freed += size
    return freed


_FIRST = "Remove those first, or name them in the same command."


def prune_plan(root: str | os.PathLike[str]) -> list[Removal]:
    """What ``prune`` would take away: checkpoints of complete runs, dead runs, leftovers of killed processes."""
    place = Path(root).expanduser()
    plan = []
    runs = find_runs(place)
    for info in runs:
        if info.state == "complete" and info.run.checkpoints.is_dir() and any(info.run.checkpoints.iterdir()):
            if not children_of(info.run, runs, part="checkpoints"):
                size = size_of(info.run.checkpoints)
                plan.append(Removal(info.run.checkpoints, "checkpoints of a complete run", size, info.path))
        elif info.state in ("dead", "failed") and not _stands(info) and not children_of(info.run, runs):
            why = "it failed before its first checkpoint" if info.state == "failed" else "nothing in it to go on from"
            plan.append(Removal(info.path, why, info.size, info.path))
    if place.is_dir():
        plan += [Removal(entry, "left by a killed process", size_of(entry), None) for entry in _leftovers(place)]
    return plan


def prune(plan: Sequence[Removal]) -> int:
    """Carry out a plan; returns the bytes freed. What has changed since the plan was made is passed over."""
    freed = 0
    for removal in plan:
        if removal.run is None:
            shutil.rmtree(removal.path, ignore_errors=True)
        elif not removal.path.is_dir():
            continue
        else:
            try:
                with RunLock(removal.run):
                    if not _still_prunable(removal.path, removal.run):
                        continue
                    _take_away(removal.path)
            except RunError:
                continue  # somebody started it again: then it is not for pruning
        freed += removal.size
    return freed


def _stands(info: RunInfo) -> bool:
    return info.state in ("running", "complete", "half done", "damaged") or has_progress(info.path)


def _still_prunable(path: Path, run: Path) -> bool:
    """Looked at under the lock, where no state is "running": is the run still what the plan took it for?"""
    if path != run:
        return has_manifest(run)
    return not has_manifest(run) and not has_progress(run)


def _made_from(child: RunInfo, run: RunDirectory, part: str) -> str:
    """How ``child`` is known to be made from ``run``; empty when it is not."""
    for parent in (*child.parents, *child.former_parents):
        if _lies_in(parent, run, part):
            return f"its {parent.role}"
    return "named in its recipe.yaml" if _named_in(child.recipe_text, run.name, part) else ""


def _lies_in(parent: Parent, run: RunDirectory, part: str) -> bool:
    target = run.path / part if part else run.path
    if parent.path is not None and Path(parent.path).is_relative_to(target):
        return True
    if parent.run is None:
        return False
    if parent.run == str(run.path):
        return not part
    # The root directory was moved since: the same name with the same key is the same run.
    moved = parent.run_key == run.key and Path(parent.run).name == run.name
    if not moved or parent.path is None or not part:
        return moved and not part
    return Path(parent.path).is_relative_to(Path(parent.run) / part)


def _named_in(recipe: str, name: str, part: str) -> bool:
    """Whether a recipe names the run's directory as a part of a path.

    By its name, not by resolving paths: they may be relative to a directory that nobody remembers. A refusal
    too many costs a look; one too few costs a model.
    """
    tail = rf"/{re.escape(part)}(?![\w.-])" if part else r"(?![\w.-])"
    lines = "\n".join(line for line in recipe.splitlines() if not line.lstrip().startswith("#"))
    within = rf"(?<![\w.-]){re.escape(name)}{tail}"
    return any(
        lines[match.start() - 1 : match.start()] == "/" or lines[match.end() : match.end() + 1] == "/" or part
        for match in re.finditer(within, lines)
    )


def _leftovers(root: Path) -> list[Path]:
    found = []
    for entry in sorted(root.iterdir()):
        with suppress(OSError):
            stale = time.time() - entry.lstat().st_mtime > _STALE_SECONDS
            if entry.is_dir() and (entry.name.startswith(_REMOVED) or (entry.name.startswith(UNBORN) and stale)):
                found.append(entry)
    return found


def _take_away(path: Path) -> None:
    """First the name, by one rename, then the files: a run is there as a whole or not at all."""
    # Checkpoints move up beside the run too, so that what a crash leaves is found in one place.
    root = path.parent if path.name != "checkpoints" else path.parent.parent
    doomed = root / f"{_REMOVED}{path.name}-{secrets.token_hex(4)}"
    try:
        path.rename(doomed)
        shutil.rmtree(doomed)
    except OSError as error:
        raise RunError(f"{path} could not be removed: {error.strerror}.") from error
