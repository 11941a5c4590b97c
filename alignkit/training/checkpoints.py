"""Checkpoints that can be trusted: written aside, digested, renamed, and verified before they are used."""

from __future__ import annotations

import json
import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from alignkit.errors import AlignkitError, RunError
from alignkit.runs.atomic import fsync_directory, fsync_file, write_json
from alignkit.runs.digests import bytes_digest, file_digest

DIGESTS = "digests.json"
STAGING = ".staging"
ASIDE = ".replaced-"
"""Before the name of a checkpoint that another one of the same step takes the place of."""
WORKERS = 4
"""Threads that flush and digest: one reads while another waits for the disk."""
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
    recover(directory)
    folder = directory / STAGING
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def recover(directory: Path) -> None:
    """Finish, or take back, the replacement of a checkpoint that a crash came between."""
    for aside in directory.glob(f"{ASIDE}*") if directory.is_dir() else ():
        final = directory / aside.name.removeprefix(ASIDE)
        if final.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(final)


class Sealing:
    """Flushes and digests the files of a checkpoint while others of it are still being written.

    ``with Sealing(staged) as sealing: …; sealing.look(); …; sealing.digests()``: each ``look`` takes the files that
    stand there and that nobody writes any more.
    """

    def __init__(self, staged: Path) -> None:
        self.staged = staged
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="seal")
        self._found: dict[Path, tuple[tuple[int, int], Future[None], Future[str]]] = {}

    def __enter__(self) -> Sealing:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def look(self) -> None:
        """Take the files that are new, or have changed since they were taken."""
        for file in sorted(p for p in self.staged.rglob("*") if p.is_file()):
            stamp = file.stat().st_size, file.stat().st_mtime_ns
            if file not in self._found or self._found[file][0] != stamp:
                flushed = self._pool.submit(fsync_file, file)
                self._found[file] = stamp, flushed, self._pool.submit(_digest, file)

    def digests(self) -> dict[str, str]:
        """SHA-256 by name; every file is on the disk, and every directory below. Raises OSError, RunError."""
        self.look()
        found = {}
        for file, (_, flushed, digest) in sorted(self._found.items()):
            flushed.result()
            found[file.relative_to(self.staged).as_posix()] = digest.result()
        for folder in (self.staged, *(p for p in self.staged.rglob("*") if p.is_dir())):
            fsync_directory(folder)
        return found


def _digest(file: Path) -> str:
    return file_digest(file, cached=False)


def commit(staged: Path, directory: Path, sealing: Sealing | None = None) -> Path:
    """Digest and flush every file of ``staged``, then rename it into ``directory``. Returns the new path.

    ``sealing``: has done a part of that while the files were written. A checkpoint of the same step that stands there
    (written before a resume) is replaced, and at no moment there is none.
    """
    with sealing or Sealing(staged) as sealed:
        digests = sealed.digests()
    write_json(staged / DIGESTS, {**digests, DIGESTS: seal(digests)})
    fsync_directory(staged)
    final, aside = directory / staged.name, directory / f"{ASIDE}{staged.name}"
    if final.exists():
        shutil.rmtree(aside, ignore_errors=True)
        final.rename(aside)
    staged.rename(final)
    fsync_directory(directory)
    shutil.rmtree(aside, ignore_errors=True)
    return final


def seal(digests: dict[str, str]) -> str:
    """The digest of the list itself."""
    return bytes_digest(json.dumps(digests, sort_keys=True).encode())


def damage(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be used, as the end of a sentence that names every file; None when every digest holds."""
    try:
        digests = json.loads((checkpoint / DIGESTS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"{DIGESTS} is missing"
    except (OSError, ValueError):
        return f"{DIGESTS} cannot be read"
    if not isinstance(digests, dict) or digests.pop(DIGESTS, None) != seal(digests):
        return f"{DIGESTS} is not what was written"
    found = []
    for name, expected in digests.items():
        file = checkpoint / name
        if not file.resolve().is_relative_to(checkpoint.resolve()):
            return f"{DIGESTS} names {name}, which lies elsewhere"
        if not file.is_file():
            found.append(f"{name} is missing")
        elif file_digest(file, cached=False) != expected:
            found.append(f"{name} is not what was written")
    return "; ".join(found) or None


def size(checkpoint: Path) -> int:
    """Bytes of a checkpoint's files."""
    return sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())


def require_room(directory: Path, bytes_each: int, *, when: str) -> None:
    """Raises RunError when there is no room for two more checkpoints of so many bytes. ``when``: the start of the
    sentence, what is about to be done."""
    place = next(one for one in (directory, *directory.parents) if one.exists())
    free = shutil.disk_usage(place).free
    if free < 2 * bytes_each:
        raise RunError(
            f"{when}: a checkpoint takes {_readable(bytes_each)}, and the disk of {place} has {_readable(free)} free, "
            "which is not enough for two. Make room there, or set run.root to another disk; the same command goes on "
            "from the last checkpoint."
        )


def refusal(error: BaseException) -> str | None:
    """What the disk said, where an error of writing is one of the disk's; None: it is another one.

    safetensors says it in words of its own, and torch's writer swallows it: then a full disk is looked for.
    """
    if isinstance(error, AlignkitError):
        return None
    if isinstance(error, OSError):
        return error.strerror or str(error)
    text = str(error)
    if "os error" in text:
        return text.removeprefix("Error while serializing: ").removeprefix("I/O error: ")
    if isinstance(error, RuntimeError) and ("PytorchStreamWriter" in text or "unexpected pos" in text):
        return "No space left on device, or it cannot be written"
    return None


def _readable(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"


def newest_good(directory: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose digests hold, and a sentence for each newer one that was passed over."""
    recover(directory)
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
