"""A run's directory: where it is, what it is called, and how far it got.

The directory's name is ``STAGE-`` and the first eight digits of the run's key. Beside it may stand siblings
of the same key (``-2``, ``-3`` …), made by ``--fresh`` or because the earlier one could not be reused: the
newest decides what asking again means.

- Newest is complete and reusable: it is the answer.
- Newest is complete and not reusable (an input had no identity): a new sibling.
- Newest is not complete: it is resumed. That holds for runs that will not be reusable too: after Ctrl-C the
  same command goes on, and a night of training is not thrown away because a judge could have changed.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignkit.errors import RunError
from alignkit.runs.atomic import json_bytes, read_json, write_bytes, write_json, write_text
from alignkit.runs.lock import RunLock
from alignkit.runs.manifest import Parent, has_manifest, parents_from, read_manifest, read_result

IDENTITY = "identity"
PARENTS = "parents"
FAILED = "failed"

UNBORN = ".new-"
"""Start of the name of a directory that is being made; one that stays was left by a killed process."""

_KEY_LENGTHS = (8, 12, 16, 24, 32, 64)


@dataclass(frozen=True)
class RunDirectory(os.PathLike[str]):
    """One run on disk. Takes the place of a path wherever the run's directory is wanted."""

    path: Path
    key: str
    stage: str
    created: float
    """Seconds since 1970."""

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def model_path(self) -> Path:
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def log_file(self) -> Path:
        return self.path / "log.txt"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def is_complete(self) -> bool:
        """Whether its manifest stands. Raises RunError when that is damaged or the result that it names is gone."""
        return has_manifest(self.path) and read_result(self.path) is not None

    @contextmanager
    def lock(self) -> Iterator[RunDirectory]:
        """Hold the run for the length of the block; raises RunError naming the holder when another has it.

        Another process may have finished the run between ``open_run`` and this: look at ``is_complete`` again.
        """
        with RunLock(self.path):
            yield self

    def write(self, name: str, text: str) -> None:
        """Replace a small text file of the run (recipe.yaml, environment.txt) as a whole."""
        write_text(self.path / name, text)

    # State marks: which phases are done, so that a half-done run knows what is left.

    def mark(self, name: str, payload: Mapping[str, Any] | None = None) -> None:
        """Record that a phase is done, with what the next one needs of it (NaN becomes null)."""
        write_json(self._mark_file(name), dict(payload or {}))

    def read_mark(self, name: str) -> dict[str, Any] | None:
        """What was recorded, or None when the phase is not done (or its record is damaged)."""
        found = read_json(self._mark_file(name))
        return found if isinstance(found, dict) else None

    def clear_mark(self, name: str) -> None:
        """The phase is to be done again."""
        self._mark_file(name).unlink(missing_ok=True)

    def record_parents(self, parents: Iterable[Parent]) -> None:
        """What this run is made from, recorded at its start: its parents are kept while it is half done."""
        self.mark(PARENTS, {"parents": [vars(parent) for parent in parents]})

    def fail(self, sentence: str) -> None:
        """Record why the run ended, for `alignkit runs`; the next start clears it with ``clear_mark("failed")``."""
        self.mark(FAILED, {"sentence": sentence, "time": time.time()})

    def _mark_file(self, name: str) -> Path:
        return self.path / "state" / f"{name}.json"

    # metrics.jsonl: one JSON object a line, in the order in which things happened.

    def append_metrics(self, values: Mapping[str, Any]) -> None:
        """Add one line; NaN and infinities become null. Lines of training carry their ``step``."""
        line = json_bytes(values)
        try:
            with self.metrics_file.open("ab+") as file:
                if file.tell() and not _ends_a_line(file.fileno(), file.tell()):
                    line = b"\n" + line  # a killed process left half a line: keep it from swallowing this one
                file.write(line)
        except OSError as error:
            raise RunError(f"{self.metrics_file} could not be written: {error.strerror}.") from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl; what a crash left unfinished is passed over."""
        if not self.metrics_file.exists():
            return []
        lines = []
        for line in self.metrics_file.read_bytes().splitlines():
            with suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict):
                    lines.append(record)
        return lines

    def truncate_metrics(self, after_step: int) -> None:
        """Cut what a resumed run will do again: lines of later steps, and a line that was left unfinished.

        Lines without a step (the scores before training) stay.
        """
        if not self.metrics_file.exists():
            return
        kept = [line for line in self.read_metrics() if not _later(line.get("step"), after_step)]
        write_bytes(self.metrics_file, b"".join(json_bytes(line) for line in kept))


def open_run(root: str | os.PathLike[str], stage: str, key: str, *, fresh: bool = False) -> RunDirectory:
    """The directory for a request: the newest of its siblings when that can answer or resume, else a new one.

    ``fresh`` always makes a new sibling. Nothing that stands is overwritten. Raises RunError when the root
    cannot be made or written, or when the newest sibling's manifest is damaged.
    """
    place = Path(root).expanduser().resolve()
    try:
        place.mkdir(parents=True, exist_ok=True)
        while True:
            siblings = _siblings(place, stage, key)
            if siblings and not fresh:
                newest = siblings[-1]
                if not newest.is_complete or read_manifest(newest.path).reusable:
                    return newest
            made = _make(place / _free_name(place, stage, key, siblings), stage, key)
            if made is not None:
                return made
    except OSError as error:
        raise RunError(f"No run directory could be made in {place}: {error.strerror}.") from error


def load_run(path: str | os.PathLike[str]) -> RunDirectory | None:
    """The run that stands at ``path``, or None when it is not a run directory of ours."""
    place = Path(path)
    identity = read_json(place / "state" / f"{IDENTITY}.json")
    if isinstance(identity, dict) and isinstance(identity.get("key"), str) and isinstance(identity.get("stage"), str):
        created = identity.get("created")
        return RunDirectory(
            path=place,
            key=identity["key"],
            stage=identity["stage"],
            created=float(created) if isinstance(created, int | float) else place.stat().st_mtime,
        )
    # The state may have been cleaned away by hand; a result is still a result.
    if has_manifest(place):
        with suppress(RunError):
            manifest = read_manifest(place)
            return RunDirectory(path=place, key=manifest.key, stage=manifest.stage, created=place.stat().st_mtime)
    return None


def enclosing_run(path: str | os.PathLike[str]) -> RunDirectory | None:
    """The run that ``path`` is or lies in (RUN/model, RUN/checkpoints/…), or None."""
    place = Path(path).expanduser().resolve()
    for candidate in (place, *place.parents):
        if (found := load_run(candidate)) is not None:
            return found
    return None


def recorded_parents(run: RunDirectory) -> tuple[Parent, ...]:
    """What a run is made from: by its manifest when it is complete, else by what it recorded at its start."""
    if has_manifest(run.path):
        with suppress(RunError):
            return read_manifest(run.path).parents
    with suppress(TypeError, ValueError, AttributeError):
        return parents_from((run.read_mark(PARENTS) or {}).get("parents", []))
    return ()


def local_parent(role: str, name: str, path: str | os.PathLike[str], digest: str) -> Parent:
    """The record of a parent on disk, with the run that it came from if any."""
    place = Path(path).expanduser().resolve()
    run = enclosing_run(place)
    return Parent(
        role=role,
        name=name,
        digest=digest,
        path=str(place),
        run=str(run.path) if run else None,
        run_key=run.key if run else None,
    )


def _siblings(root: Path, stage: str, key: str) -> list[RunDirectory]:
    """Runs of this very key, oldest first."""
    start = f"{stage}-{key[:8]}"
    found = (load_run(entry) for entry in root.iterdir() if entry.name.startswith(start) and entry.is_dir())
    return sorted((run for run in found if run and (run.stage, run.key) == (stage, key)), key=_number)


def _number(run: RunDirectory) -> tuple[int, float]:
    match = re.search(r"-(\d+)$", run.name[len(run.stage) + 1 :])
    return (int(match[1]) if match else 1, run.created)


def _free_name(root: Path, stage: str, key: str, siblings: list[RunDirectory]) -> str:
    """The next name for this key. Where another key has the same first digits, the name grows longer."""
    if siblings:
        base = re.sub(r"-\d+$", "", siblings[-1].name[len(stage) + 1 :])
        base = f"{stage}-{base}"
    else:
        bases = [f"{stage}-{key[:length]}" for length in _KEY_LENGTHS]
        base = next((name for name in bases if not _taken_by_another(root, name, key)), bases[-1])
    numbers = [number for entry in root.iterdir() if (number := _sibling_number(entry.name, base))]
    return base if not numbers else f"{base}-{max(numbers) + 1}"


def _taken_by_another(root: Path, base: str, key: str) -> bool:
    entries = (entry for entry in root.iterdir() if _sibling_number(entry.name, base))
    return any((run := load_run(entry)) is not None and run.key != key for entry in entries)


def _sibling_number(name: str, base: str) -> int:
    """1 for the base name itself, n for ``BASE-n``, 0 for any other name."""
    match = re.fullmatch(re.escape(base) + r"(?:-(\d+))?", name)
    return 0 if match is None else int(match[1] or 1)


def _make(path: Path, stage: str, key: str) -> RunDirectory | None:
    """Make the directory with its identity in it, at once; None when another process took the name."""
    unborn = path.with_name(f"{UNBORN}{path.name}-{secrets.token_hex(4)}")
    created = time.time()
    try:
        write_json(unborn / "state" / f"{IDENTITY}.json", {"stage": stage, "key": key, "created": created})
        unborn.rename(path)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            return None
        raise
    finally:
        shutil.rmtree(unborn, ignore_errors=True)
    return RunDirectory(path=path, key=key, stage=stage, created=created)


def _ends_a_line(descriptor: int, size: int) -> bool:
    return os.pread(descriptor, 1, size - 1) == b"\n"


def _later(step: object, after: int) -> bool:
    return isinstance(step, int | float) and step > after
