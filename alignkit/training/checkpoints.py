"""Checkpoints that can be trusted: written aside, digested, renamed, and verified before they are used."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from alignkit.runs.atomic import fsync_directory, fsync_file, write_json
from alignkit.runs.digests import file_digest

DIGESTS = "digests.json"
STAGING = ".staging"
_NAME = re.compile(r"^checkpoint-(\d+)$")


def step_of(checkpoint: Path) -> int:
    """The optimizer step that a checkpoint directory's name tells."""
    match = _NAME.match(checkpoint.name)
    if match is None:
        raise ValueError(f"{checkpoint} is not a checkpoint directory")
    return int(match.group(1))


def all_checkpoints(directory: Path) -> list[Path]:
    """Committed checkpoints under ``directory``, newest first. Half-written ones live in the staging folder."""
    if not directory.is_dir():
        return []
    found = [p for p in directory.iterdir() if p.is_dir() and _NAME.match(p.name)]
    return sorted(found, key=step_of, reverse=True)


def staging(directory: Path) -> Path:
    """An empty folder beside the checkpoints to write the next one in; what a crash left there is removed."""
    folder = directory / STAGING
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def commit(staged: Path, directory: Path) -> Path:
    """Digest and flush every file of ``staged``, then rename it into ``directory``. Returns the new path.

    A checkpoint of the same step that stands there (written before a resume) is replaced.
    """
    digests: dict[str, str] = {}
    for file in sorted(p for p in staged.rglob("*") if p.is_file()):
        fsync_file(file)
        digests[file.relative_to(staged).as_posix()] = file_digest(file, cached=False)
    write_json(staged / DIGESTS, digests)
    fsync_directory(staged)
    final = directory / staged.name
    if final.exists():
        shutil.rmtree(final)
    staged.rename(final)
    fsync_directory(directory)
    return final


def damage(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be used, as the end of a sentence; None when every digest holds."""
    try:
        digests = json.loads((checkpoint / DIGESTS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"{DIGESTS} is missing"
    except (OSError, ValueError):
        return f"{DIGESTS} cannot be read"
    if not isinstance(digests, dict):
        return f"{DIGESTS} cannot be read"
    for name, expected in digests.items():
        file = checkpoint / name
        if not file.resolve().is_relative_to(checkpoint.resolve()):
            return f"{DIGESTS} names {name}, which lies elsewhere"
        if not file.is_file():
            return f"{name} is missing"
        if file_digest(file, cached=False) != expected:
            return f"{name} is not what was written"
    return None


def newest_good(directory: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose digests hold, and a sentence for each newer one that was passed over."""
    passed_over: list[str] = []
    for checkpoint in all_checkpoints(directory):
        reason = damage(checkpoint)
        if reason is None:
            return checkpoint, passed_over
        passed_over.append(f"{checkpoint.name} is damaged ({reason}) and is not used.")
    return None, passed_over


def prune(directory: Path, keep: int, spare: Path | None = None) -> None:
    """Remove all but the newest ``keep`` checkpoints, and never ``spare`` (the best one so far)."""
    for old in all_checkpoints(directory)[keep:]:
        if spare is None or old.name != spare.name:
            shutil.rmtree(old, ignore_errors=True)
