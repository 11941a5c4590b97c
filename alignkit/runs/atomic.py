"""Small files that are either wholly there or not at all, whenever the machine stops.

The order is what makes it hold: write a temporary file beside the target, fsync it, rename it over the
target, fsync the directory. A reader sees the old contents or the new ones, never half of either.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from alignkit.errors import RunError
from alignkit.runs.plain import plain

TEMPORARY = ".tmp-"
"""Part of the name of every unfinished file, so that listings and digests can leave them out."""


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace the contents of ``path``. ``durable=False`` skips the fsyncs (for caches, which may be lost).

    Raises RunError when the disk is full or the directory cannot be written; the old file is then untouched.
    """
    temporary = path.with_name(f".{path.name}{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable:
            fsync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise RunError(f"{path} could not be written: {error.strerror or error}.") from error


def write_text(path: Path, text: str) -> None:
    """Replace the contents of ``path`` by ``text`` in UTF-8; bytes that were no UTF-8 in a file name stay so."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_json(path: Path, value: object, *, durable: bool = True) -> None:
    """Replace the contents of ``path`` by ``value`` as valid JSON (NaN and infinities become null)."""
    write_bytes(path, json_bytes(value, indent=2), durable=durable)


def json_bytes(value: object, *, indent: int | None = None) -> bytes:
    """``value`` as valid JSON and a newline (NaN and infinities become null)."""
    text = json.dumps(plain(value), indent=indent, ensure_ascii=False, allow_nan=False)
    # A file name that is no UTF-8 reaches us as lone surrogates: backslashreplace writes just what JSON escapes are.
    return (text + "\n").encode("utf-8", "backslashreplace")


def read_json(path: Path) -> Any | None:
    """What ``path`` holds, or None when it is missing or damaged: for files whose loss only costs time."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable. File systems that cannot do so (some network ones) are let be."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Make the contents of a file that somebody else wrote durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def files_below(directory: Path) -> Iterator[Path]:
    """Every finished file below ``directory``, in the order of their names; symbolic links to files count."""
    for entry in sorted(directory.rglob("*")):
        if TEMPORARY not in entry.name and entry.is_file():
            yield entry
