"""What a finished run says about itself: ``RUN/manifest.json``, written last.

Only a directory with a manifest is a result. Everything it names is on disk before it appears, and it
appears by rename, so there is no moment at which half a result looks like a whole one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alignkit.errors import RunError
from alignkit.runs.atomic import files_below, fsync_directory, fsync_file, read_json, write_json
from alignkit.runs.digests import file_digest

FORMAT = "alignkit run 1"
"""Stands in every manifest, so that another program's manifest.json is not taken for ours."""

_NAME = "manifest.json"
_PREVIOUS = "manifest.previous.json"
_NOT_THE_RESULT = {"lock", "log.txt", _NAME, _PREVIOUS}
_NOT_RESULT_DIRECTORIES = {"state", "checkpoints"}


@dataclass(frozen=True, kw_only=True)
class Parent:
    """One thing that a run was made from."""

    role: str
    """What it was for: `model`, `data`, `merge.models[0]` …"""
    name: str
    """As the person typed it."""
    digest: str = ""
    """Digest of its contents; empty for what has none (a server)."""
    path: str | None = None
    """Absolute path, for what stands on disk."""
    hub: str | None = None
    """Hub id, for what came from the hub."""
    commit: str | None = None
    """Commit of the hub repository."""
    run: str | None = None
    """Absolute path of the run directory that made it, when it was a run."""
    run_key: str | None = None
    """That run's key: finds it again when the root directory was moved."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The record of a complete run. ``publish`` fills ``files``, ``created`` and ``finished``."""

    stage: str
    name: str
    """Name of the recipe it was asked for by (`quickstart`)."""
    key: str
    """64 hex digits, see key.py."""
    semantics: int
    seed: int
    parents: tuple[Parent, ...] = ()
    recipe: dict[str, Any] = field(default_factory=dict)
    """The recipe's values, operational ones included."""
    resolved: dict[str, Any] = field(default_factory=dict)
    """What each `auto` became."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """`before` and `after` (scores by name), and `headline`: {name, before, after} of the one to show first."""
    files: dict[str, str] = field(default_factory=dict)
    """Relative path to SHA-256."""
    versions: dict[str, str] = field(default_factory=dict)
    """Package name to version."""
    result: str = "model"
    """What the run is for, relative to its directory: the path that is printed."""
    reusable: bool = True
    """False when an input had no identity (a server, a user's function): asking again then runs again."""
    stopped_by: str | None = None
    """The rule that ended the run before its last step (`kl`); None: it ran to its end."""
    created: str = ""
    """When the directory was made; ISO 8601 with its offset."""
    finished: str = ""
    """When this manifest was written."""
    seconds: float | None = None
    """Time spent working, over all attempts, when it was measured."""


def read_manifest(run: str | os.PathLike[str]) -> Manifest:
    """The manifest of a run directory. Fields of later versions are passed over.

    Raises RunError naming the file when it is missing, damaged, or no manifest of ours.
    """
    return _read(Path(run) / _NAME)


def read_result(run: str | os.PathLike[str]) -> Manifest:
    """As ``read_manifest``, and the result that it names is there; else RunError naming what is missing."""
    manifest = read_manifest(run)
    if not (Path(run) / manifest.result).exists():
        raise RunError(
            f"{Path(run) / manifest.result} is the result of a complete run, and it is gone. "
            "Take the directory away with `alignkit runs rm`, or train anew with --fresh."
        )
    return manifest


def read_previous(run: str | os.PathLike[str]) -> Manifest | None:
    """The manifest that ``unpublish`` set aside, or None."""
    try:
        return _read(Path(run) / _PREVIOUS)
    except RunError:
        return None


def has_manifest(run: str | os.PathLike[str]) -> bool:
    """Whether a manifest stands in the directory, readable or not."""
    return (Path(run) / _NAME).is_file()


def publish(run: str | os.PathLike[str], manifest: Manifest, known: Mapping[str, str] | None = None) -> Manifest:
    """Make a run a result: flush and digest its files, then write the manifest by rename. Returns it, completed.

    ``known`` are digests by relative path that were taken while the files were written.
    Left out of the digests is what goes on changing (the log, checkpoints, state). Raises RunError when a file
    cannot be read or written, or when the result that the manifest names is not there.
    """
    directory = Path(run)
    if not (directory / manifest.result).exists():
        raise RunError(f"{directory / manifest.result} is the result of this run, and it was not written.")
    digests = {}
    folders = {directory}
    for file in result_files(directory):
        try:
            fsync_file(file)
        except OSError as error:
            raise RunError(f"{file} could not be flushed to disk: {error.strerror}.") from error
        folders.add(file.parent)
        name = file.relative_to(directory).as_posix()
        digests[name] = (known or {}).get(name) or file_digest(file, cached=False)
    for folder in sorted(folders):
        fsync_directory(folder)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    complete = replace(manifest, files=digests, finished=now, created=manifest.created or _created(directory) or now)
    write_json(directory / _NAME, {"format": FORMAT, **_as_dict(complete)})
    with suppress(OSError):
        (directory / _PREVIOUS).unlink(missing_ok=True)
    return complete


def unpublish(run: str | os.PathLike[str]) -> None:
    """Take the manifest away before a part of a complete run is redone; it stays as manifest.previous.json."""
    directory = Path(run)
    with suppress(FileNotFoundError):
        (directory / _NAME).rename(directory / _PREVIOUS)
        fsync_directory(directory)


def verify(run: str | os.PathLike[str]) -> list[str]:
    """Read every file that the manifest names, bit by bit; one sentence for each that is not what it was."""
    directory = Path(run)
    problems = []
    for name, digest in read_manifest(directory).files.items():
        file = directory / name
        if not file.is_file():
            problems.append(f"{name} is missing.")
        elif file_digest(file, cached=False) != digest:
            problems.append(f"{name} is not the file that the run wrote: its SHA-256 differs from the manifest's.")
    return problems


def result_files(run: str | os.PathLike[str]) -> list[Path]:
    """The files of a run that belong to its result, in the order of their names."""
    directory = Path(run)
    chosen = []
    for file in files_below(directory):
        parts = file.relative_to(directory).parts
        if parts[0] not in _NOT_RESULT_DIRECTORIES and not (len(parts) == 1 and parts[0] in _NOT_THE_RESULT):
            chosen.append(file)
    return chosen


def _as_dict(manifest: Manifest) -> dict[str, Any]:
    values = {item.name: getattr(manifest, item.name) for item in fields(manifest)}
    values["parents"] = [
        {name: value for name, value in vars(parent).items() if value not in (None, "")} for parent in manifest.parents
    ]
    return values


def parents_from(records: object) -> tuple[Parent, ...]:
    """Parents from a list of JSON objects; raises TypeError or ValueError when it is no such list."""
    if not isinstance(records, list):
        raise TypeError("parents is not a list")
    known = {item.name for item in fields(Parent)}
    return tuple(Parent(**{name: value for name, value in record.items() if name in known}) for record in records)


def _read(path: Path) -> Manifest:
    try:
        record = json.loads(path.read_bytes())
        if not isinstance(record, Mapping) or not str(record.get("format", "")).startswith("alignkit run "):
            raise ValueError("it is not the manifest of an alignkit run")
        known = {item.name for item in fields(Manifest)}
        values = {name: value for name, value in record.items() if name in known}
        values["parents"] = parents_from(values.get("parents", []))
        manifest = Manifest(**values)
        _check_types(manifest)
        return manifest
    except FileNotFoundError:
        raise RunError(f"{path} is missing: this run is not complete.") from None
    except OSError as error:
        raise RunError(f"{path} could not be read: {error.strerror}.") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} is damaged ({error}). Take the directory away with `alignkit runs rm`, or train anew with --fresh."
        ) from error


def _check_types(manifest: Manifest) -> None:
    """The fields that other code computes with; raises TypeError naming the first that is of another type."""
    wanted: dict[str, type] = {
        **dict.fromkeys(("stage", "name", "key", "result", "created", "finished"), str),
        **dict.fromkeys(("recipe", "resolved", "metrics", "files", "versions"), dict),
        "reusable": bool,
    }
    for name, kind in wanted.items():
        if not isinstance(getattr(manifest, name), kind):
            raise TypeError(f"{name} is not a {kind.__name__}")


def _created(directory: Path) -> str:
    identity = read_json(directory / "state" / "identity.json")
    if not isinstance(identity, dict) or not isinstance(identity.get("created"), int | float):
        return ""
    return datetime.fromtimestamp(identity["created"], UTC).isoformat(timespec="seconds")
