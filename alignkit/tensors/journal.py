"""Which tensors are safely on disk, remembered so that a killed run goes on where it stopped.

A text file of JSON lines: first the plan's digest, then one line for each finished tensor. A line is written only
after the data it speaks of was synced, and synced itself; a line that is cut off or damaged ends it. A thread of its
own does the syncing and takes all that was finished meanwhile at once, so that nobody waits for the disk.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from alignkit.errors import RunError


class Journal:
    """The journal at ``path`` for the plan with this digest. ``sync`` makes the data of the named tensors durable.

    ``done`` names the tensors that are safe, ``nonfinite`` those handed in that hold NaN or infinite values.
    """

    def __init__(self, path: Path, plan: str, sync: Callable[[Iterable[str]], None]) -> None:
        self.path, self._plan, self._sync = path, plan, sync
        self.done: set[str] = set()
        self.nonfinite: set[str] = set()
        self._waiting: list[tuple[str, bool]] = []
        self._failure: OSError | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._descriptor = -1
        self._thread = threading.Thread(target=self._commit_all, name="journal", daemon=True)

    def matches(self) -> bool:
        """Whether the file was begun for this plan."""
        lines, _ = self._lines()
        return bool(lines) and lines[0] == {"plan": self._plan}

    def resume(self) -> None:
        """Take what the file says as done, and go on after its last whole line."""
        lines, end = self._lines()
        for line in lines[1:]:
            self.done.add(line["done"])
            if not line["finite"]:
                self.nonfinite.add(line["done"])
        self._open(os.O_WRONLY)
        os.ftruncate(self._descriptor, end)
        os.lseek(self._descriptor, end, os.SEEK_SET)
        self._thread.start()

    def begin(self) -> None:
        """Start an empty journal in place of what was there."""
        self._open(os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._append([{"plan": self._plan}])
        self._thread.start()

    def add(self, name: str, finite: bool) -> None:
        """All of a tensor has been handed to the system. Raises RunError when an earlier one could not be synced."""
        with self._changed:
            self._raise_failure()
            if not finite:
                self.nonfinite.add(name)
            self._waiting.append((name, finite))
            self._changed.notify_all()

    def close(self) -> None:
        """Sync what is waiting and stop. Raises RunError when that fails; calling it again does nothing."""
        if self._descriptor < 0:
            return
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        os.close(self._descriptor)
        self._descriptor = -1
        self._raise_failure()

    def _commit_all(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                batch, self._waiting = self._waiting, []
            if not batch:
                return
            try:
                self._sync(name for name, _ in batch)
                self._append([{"done": name, "finite": finite} for name, finite in batch])
            except OSError as error:
                self._failure = error
                return
            self.done |= {name for name, _ in batch}

    def _append(self, lines: list[dict[str, Any]]) -> None:
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        while data:
            data = data[os.write(self._descriptor, data) :]
        os.fsync(self._descriptor)

    def _open(self, flags: int) -> None:
        self._descriptor = os.open(self.path, flags | os.O_CLOEXEC, 0o644)

    def _lines(self) -> tuple[list[dict[str, Any]], int]:
        """The lines up to the first that is cut off or was damaged by a crash of the machine, and where they end."""
        try:
            data = self.path.read_bytes()
        except OSError:
            return [], 0
        found: list[dict[str, Any]] = []
        end = 0
        for line in data.splitlines(keepends=True):
            try:
                value = json.loads(line)
            except ValueError:
                break
            wanted = {"done", "finite"} if found else {"plan"}
            if not line.endswith(b"\n") or not isinstance(value, dict) or value.keys() != wanted:
                break
            found.append(value)
            end += len(line)
        return found, end

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise RunError(f"The result could not be written: {self._failure.strerror}.") from self._failure
