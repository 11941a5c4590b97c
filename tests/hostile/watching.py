"""What an input may not do, seen from below: Python's audit events, and inotify for what opens files beneath Python.

One audit hook is added to the process, for good (Python has no way to take one away); it sleeps unless a `Watch` is on.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PLANTED = "planted_by_a_stranger"
"""Name of a module that lies in the working directory of every attack; importing it touches the canary."""
PROCESSES = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "pty.spawn")
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind", "socket.sendto")
_OPENED = 0x00000020 | 0x00000001 | 0x00000002 | 0x00000100 | 0x00000200  # IN_OPEN, ACCESS, MODIFY, CREATE, DELETE
_EVENT = struct.Struct("iIII")


@dataclass
class Watch:
    """What happened while it was on. ``outside``: nothing in this directory may be touched; ``folder``: nothing in it
    may be run as Python."""

    folder: Path
    outside: Path
    seen: list[str] = field(default_factory=list)


_on: Watch | None = None
_added = False


@contextmanager
def watching(folder: Path, outside: Path) -> Iterator[Watch]:
    """Record what no input may bring about: code of `folder` or of the planted module that runs, a process that is
    started, a socket that is connected, a file under `outside` that is opened, by Python or by a library below it."""
    global _on, _added
    if not _added:
        sys.addaudithook(_hook)
        _added = True
    watch = Watch(folder.resolve(), outside.resolve())
    with _opened_below(watch):
        _on = watch
        try:
            yield watch
        finally:
            _on = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    watch = _on
    if watch is None:
        return
    if event in PROCESSES:
        watch.seen.append(f"{event} {arguments[:2]!r}")
    elif event == "socket.__new__":
        if arguments[1] in (socket.AF_INET, socket.AF_INET6):
            watch.seen.append(f"{event} {arguments[1:]!r}")
    elif event in NETWORK:
        if not (event == "socket.connect" and getattr(arguments[0], "family", None) == socket.AF_UNIX):
            watch.seen.append(f"{event} {arguments[1:]!r}")
    elif event == "import":
        if str(arguments[0]).split(".")[0] == PLANTED:
            watch.seen.append(f"import {arguments[0]}")
    elif event == "exec":
        file = str(getattr(arguments[0], "co_filename", ""))
        if file.startswith("/") and Path(file).is_relative_to(watch.folder):
            watch.seen.append(f"exec {file}")
    elif event == "compile":
        file = arguments[1]
        if isinstance(file, str) and file.startswith("/") and Path(file).is_relative_to(watch.folder):
            watch.seen.append(f"compile {file}")
    elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        place = os.path.realpath(os.fsdecode(arguments[0]))
        if place.startswith(f"{watch.outside}/"):
            watch.seen.append(f"open {place}")


@contextmanager
def _opened_below(watch: Watch) -> Iterator[None]:
    """inotify on the files of `outside`: it sees what Rust, C++ and child processes open, whatever path they take."""
    if not sys.platform.startswith("linux"):
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert descriptor >= 0, os.strerror(ctypes.get_errno())
    for place in (watch.outside, *(one for one in watch.outside.rglob("*") if one.is_file())):
        wanted = libc.inotify_add_watch(descriptor, os.fsencode(place), _OPENED)
        assert wanted >= 0, os.strerror(ctypes.get_errno())
    try:
        yield
        watch.seen += _events(descriptor)
    finally:
        os.close(descriptor)


def _events(descriptor: int) -> list[str]:
    try:
        data = os.read(descriptor, 1 << 16)
    except BlockingIOError:
        return []
    found, at = [], 0
    while at < len(data):
        _, mask, _, length = _EVENT.unpack_from(data, at)
        name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0").decode()
        if not mask & 0x40000000:  # IN_ISDIR: looking a name up is no reading
            found.append(f"inotify {mask:#x} {name}")
        at += _EVENT.size + length
    return found
