"""Stores under the user's cache directory, each under the digest of all that decides its contents.

A store is written beside its place and renamed to it when it is whole. One process writes a store at a time (a lock
that the kernel drops with the process); those that read hold a shared lock, so that no store in use is pruned.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from alignkit.console import log
from alignkit.data.store.layout import LAYOUT, MANIFEST
from alignkit.errors import RunError

LIMIT_VARIABLE = "ALIGNKIT_DATA_CACHE_GB"
LIMIT_GB = 50.0
"""Stores beyond this size in all are removed, those first that were not used for longest."""


def cache_root() -> Path:
    """$XDG_CACHE_HOME/alignkit/data, or below ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG rule: a relative path there is to be ignored.
    home = Path(base) if Path(base).is_absolute() else Path("~/.cache").expanduser()
    return home / "alignkit" / "data"


def find(key: str) -> Path | None:
    """The whole store of a key, or None. It counts as used now."""
    directory = cache_root() / key
    try:
        manifest: dict[str, Any] = json.loads((directory / MANIFEST).read_bytes())
        whole = manifest["layout"] == LAYOUT and all(
            (directory / name).stat().st_size == size for name, size in manifest["sizes"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if whole:
        with suppress(OSError):
            os.utime(directory / MANIFEST)
    return directory if whole else None


@contextmanager
def writing(key: str) -> Iterator[Path | None]:
    """An empty directory to write the store of a key into, which becomes its place when the block ends well.

    Waits while another process writes the same store, and then gives None. Raises RunError when the cache cannot be
    written or the disk is full; what was written is then removed.
    """
    root = cache_root()
    temporary = root / f".writing-{key}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root / f"{key}.lock"):
            if find(key) is not None:
                yield None
                return
            shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed: the lock is ours
            try:
                temporary.mkdir()
                yield temporary
                _publish(temporary, root / key)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
                (root / f"{key}.lock").unlink(missing_ok=True)
    except OSError as error:
        if error.filename is not None and not _related(Path(os.fsdecode(error.filename)), root):
            raise  # of the source, not of the cache
        raise RunError(
            f"Tokenized data could not be kept in {root}: {error.strerror or error}. "
            "Free some of that disk, or set XDG_CACHE_HOME to a directory on another."
        ) from error
    prune(keep=key)


def hold(directory: Path) -> BinaryIO:
    """The store's manifest, opened: until it is closed the store is not pruned. Raises OSError when it is gone."""
    file = (directory / MANIFEST).open("rb")
    with suppress(OSError):  # a file system without locks: then nothing is known to be in use
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return file


def prune(keep: str = "", limit: float | None = None) -> list[Path]:
    """Remove the stores that were not used for longest until the others fit; those in use and ``keep`` stay.

    ``limit``: bytes; None: ALIGNKIT_DATA_CACHE_GB, else LIMIT_GB.
    """
    allowed = _limit() if limit is None else limit
    stores = []
    root = cache_root()
    for manifest in root.glob(f"*/{MANIFEST}"):
        with suppress(OSError):
            size = sum(file.stat().st_size for file in manifest.parent.iterdir())
            stores.append((manifest.stat().st_mtime, size, manifest.parent))
    for lock in root.glob("*.lock"):
        _sweep(lock)
    total = sum(size for _, size, _ in stores)
    removed = []
    for _, size, directory in sorted(stores):
        if total <= allowed:
            break
        if directory.name != keep and _remove(directory):
            removed.append(directory)
            total -= size
    return removed


def _related(path: Path, root: Path) -> bool:
    """Whether a path lies in the cache or on the way to it."""
    return path == root or root in path.parents or path in root.parents


def _limit() -> float:
    try:
        return float(os.environ.get(LIMIT_VARIABLE, "")) * 1e9
    except ValueError:
        return LIMIT_GB * 1e9


def _remove(directory: Path) -> bool:
    """Remove a store unless somebody reads it."""
    try:
        descriptor = os.open(directory / MANIFEST, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (directory / MANIFEST).unlink()  # without it the store is not found any more
    except OSError:
        return False
    finally:
        os.close(descriptor)
    shutil.rmtree(directory, ignore_errors=True)
    return True


def _sweep(lock: Path) -> None:
    """Remove what a killed process left, unless its key is being written now."""
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(lock.with_name(f".writing-{lock.stem}"), ignore_errors=True)
        lock.unlink(missing_ok=True)
    except OSError:
        return
    finally:
        os.close(descriptor)


def _publish(temporary: Path, place: Path) -> None:
    """Make the files durable before the name is: a store must never hold zeros where the disk lost its last writes."""
    for file in temporary.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    if place.exists():  # damaged, or of an older layout
        shutil.rmtree(place, ignore_errors=True)
    temporary.rename(place)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """An exclusive lock on a file, which the kernel drops with this process."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _wait(descriptor)
            if _is_there(descriptor, path):
                yield
                return
        finally:
            os.close(descriptor)


def _is_there(descriptor: int, path: Path) -> bool:
    """Whether a lock is on the file that others see: whoever held it may have removed it."""
    try:
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _wait(descriptor: int) -> None:
    said = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not said:
                log.say("Waiting for another run that tokenizes the same data …")
                said = True
            time.sleep(0.2)
