"""One process at a time in a run directory.

An advisory ``flock`` on ``RUN/lock``: the kernel drops it when the process ends, however it ends, so a
killed run never has to be unlocked by hand. Who holds it is written in the file, for the sentence that
refuses the second process.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType

from alignkit.errors import RunError

_ATTEMPTS = 10
_PAUSE = 0.03
"""Seconds between attempts: whoever only looks (`alignkit runs`) holds the lock for microseconds."""

_open_here: set[int] = set()


def _drop_in_child() -> None:
    """A forked child (a data loader's worker) must not keep the lock of a parent that was killed."""
    for descriptor in _open_here:
        with suppress(OSError):
            os.close(descriptor)  # the parent's own descriptor keeps the lock
    _open_here.clear()


os.register_at_fork(after_in_child=_drop_in_child)


@dataclass(frozen=True)
class Holder:
    """Who works in a run directory. ``started`` is in seconds since 1970, in the holder's clock."""

    pid: int
    host: str
    started: float

    def __str__(self) -> str:
        if not self.pid:
            return "another process"
        host = "" if self.host == socket.gethostname() else f" on {self.host}"
        since = datetime.fromtimestamp(self.started).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        return f"process {self.pid}{host} (since {since})"


class RunLock:
    """``with RunLock(run): …`` holds the run's lock; raises RunError naming the holder when it is taken."""

    def __init__(self, run: str | os.PathLike[str]) -> None:
        self._run = Path(run)
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        path = self._run / "lock"
        for attempt in range(_ATTEMPTS):
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            except FileNotFoundError:
                raise RunError(f"{self._run} was removed in the meantime. Give the command again.") from None
            except OSError as error:
                raise RunError(f"{path} could not be opened: {error.strerror}.") from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                time.sleep(_PAUSE * (attempt < _ATTEMPTS - 1))
                continue
            except OSError as error:
                os.close(descriptor)
                raise _refusal(path, error) from error
            if not _same_file(descriptor, path):
                os.close(descriptor)  # removed between opening and locking: look again at the path
                continue
            record = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, (json.dumps(record) + "\n").encode(), 0)
            self._descriptor = descriptor
            _open_here.add(descriptor)
            return self
        raise RunError(
            f"{self._run.name} is in use by {holder(self._run) or 'another process'}. "
            "Wait for it or stop it; the same command then goes on from there. --fresh starts another run beside it."
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        descriptor, self._descriptor = self._descriptor, None
        # A forked child that leaves the block must not unlock what its parent holds.
        if descriptor is None or descriptor not in _open_here:
            return
        _open_here.discard(descriptor)
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
        os.close(descriptor)


def holder(run: str | os.PathLike[str]) -> Holder | None:
    """Who holds the lock of a run directory, or None. Only looks: nothing is written, and no lock is kept."""
    try:
        descriptor = os.open(Path(run) / "lock", os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _read_holder(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _read_holder(descriptor: int) -> Holder:
    try:
        record = json.loads(os.pread(descriptor, 4096, 0))
        return Holder(pid=int(record["pid"]), host=str(record["host"]), started=float(record["started"]))
    except (ValueError, KeyError, TypeError):
        return Holder(pid=0, host="", started=0.0)  # locked, and not signed yet


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except OSError:
        return False
    here = os.fstat(descriptor)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _refusal(path: Path, error: OSError) -> RunError:
    if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
        return RunError(f"The file system of {path.parent} has no locks. Put run.root on another one.")
    return RunError(f"{path} could not be locked: {error.strerror}.")
