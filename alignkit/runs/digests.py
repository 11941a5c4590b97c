"""SHA-256 of files, remembered between runs.

A model of some gigabytes takes seconds to digest, and a chain of runs asks for the same one again and
again. So digests are kept under the user's cache directory, one small file per path: writers need no
lock (each entry is replaced by rename), and a damaged entry costs one reading of one file.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from alignkit.errors import RunError
from alignkit.runs.atomic import TEMPORARY, files_below, read_json, write_json

SETTLED_SECONDS = 2.0
"""A file that changed within this time is not remembered: it could change again within the clock's grain."""

_HEX = re.compile(r"[0-9a-f]{64}")


def bytes_digest(data: bytes) -> str:
    """SHA-256 of ``data`` as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: str | os.PathLike[str], *, cached: bool = True) -> str:
    """SHA-256 of a file's contents as 64 hex digits.

    A remembered digest is taken when path, size, mtime and inode (and device and ctime, which catch tools
    that put the mtime back) are what they were. ``cached=False`` reads the file whatever is remembered, as
    a check of its bits must. Raises RunError when the file cannot be read or changes while it is read.
    """
    real = Path(path).resolve()
    try:
        before = _stamp(real)
        entry = _entry(real)
        if cached and (known := _remembered(entry, real, before)):
            return known
        with real.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if _stamp(real) != before:
            raise RunError(f"{path} changed while it was being read. Let it settle, then give the command again.")
        if time.time() - real.stat().st_ctime >= SETTLED_SECONDS:
            _remember(entry, real, before, digest)
    except OSError as error:
        raise RunError(f"{path} could not be read: {error.strerror or error}.") from error
    return digest


def directory_digest(
    path: str | os.PathLike[str], patterns: Iterable[str] = ("**/*",), *, files: Iterable[str] | None = None
) -> str:
    """One digest of several files in a directory: their relative names and contents, in the order of the names.

    Which files: ``files`` (relative names; a missing one is a RunError), else what ``patterns`` (glob) match.
    """
    directory = Path(path)
    if files is not None:
        chosen = {Path(name).as_posix(): directory / name for name in files}
    else:
        found = (entry for pattern in patterns for entry in directory.glob(pattern))
        chosen = {
            entry.relative_to(directory).as_posix(): entry
            for entry in found
            if entry.is_file() and TEMPORARY not in entry.name
        }
    whole = hashlib.sha256()
    for name in sorted(chosen):
        # The length in front keeps two names from being read as one.
        encoded = os.fsencode(name)
        whole.update(len(encoded).to_bytes(8, "big") + encoded + bytes.fromhex(file_digest(chosen[name])))
    return whole.hexdigest()


def path_digest(path: str | os.PathLike[str]) -> str:
    """Digest of whatever stands at ``path``: a file's contents, or a directory's names and contents."""
    place = Path(path)
    if place.is_dir():
        return directory_digest(place, files=[str(file.relative_to(place)) for file in files_below(place)])
    return file_digest(place)


def cache_directory() -> Path:
    """Where digests are remembered: ``$XDG_CACHE_HOME/alignkit/digests``, else below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG rule: a relative path there is to be ignored.
    home = Path(base) if Path(base).is_absolute() else Path("~/.cache").expanduser()
    return home / "alignkit" / "digests"


def _stamp(path: Path) -> list[int]:
    """Device, inode, size, mtime and ctime in nanoseconds."""
    status = path.stat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _entry(path: Path) -> Path:
    name = bytes_digest(os.fsencode(path))
    return cache_directory() / name[:2] / f"{name[2:34]}.json"


def _remembered(entry: Path, path: Path, stamp: list[int]) -> str | None:
    known = read_json(entry)
    if not isinstance(known, dict) or known.get("path") != str(path) or known.get("stamp") != stamp:
        return None
    digest = known.get("sha256")
    return digest if isinstance(digest, str) and _HEX.fullmatch(digest) else None


def _remember(entry: Path, path: Path, stamp: list[int], digest: str) -> None:
    try:
        write_json(entry, {"path": str(path), "stamp": stamp, "sha256": digest}, durable=False)
    except RunError:
        return  # no cache directory to write to: the digest is right all the same
