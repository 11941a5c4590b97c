"""SHA-256 of a file that several threads are writing, without reading it again as long as they keep in order."""

from __future__ import annotations

import hashlib
import os
import threading

from alignkit.errors import RunError

BACKLOG = 4 << 20
"""Bytes that may wait in memory for their turn; what comes out of order beyond that is read back from the file."""
BLOCK = 1 << 20


class RunningDigest:
    """Is told of the pieces of one file in any order, without overlaps, and digests them in the file's order."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._hash = hashlib.sha256()
        self._position = 0
        self._waiting: dict[int, bytes | memoryview | int] = {}
        """By offset: a piece, or the length of one that is to be read back."""
        self._backlog = 0
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        """Held by the one thread that is digesting."""

    def offer(self, offset: int, data: bytes | memoryview) -> None:
        """``data`` was written at ``offset``; its memory must not change any more."""
        if not len(data):  # the piece that begins here too is another one
            return
        with self._lock:
            if self._backlog + len(data) <= BACKLOG:
                self._waiting[offset] = data
                self._backlog += len(data)
            else:
                self._waiting[offset] = len(data)
        # A thread that finds another one digesting goes back to its own work.
        if self._turn.acquire(blocking=False):
            try:
                self._advance()
            finally:
                self._turn.release()

    def written(self, offset: int, length: int) -> None:
        """A piece stands in the file since an earlier run."""
        if length:
            self._waiting[offset] = length

    def finish(self, size: int) -> str:
        """The digest of the whole file of ``size`` bytes, 64 hex digits. Raises RunError when pieces are missing."""
        with self._turn:
            self._advance()
            if self._position != size:
                raise RunError(f"A file of the result has {self._position:,} bytes in order where {size:,} belong.")
            return self._hash.hexdigest()

    def _advance(self) -> None:
        while True:
            with self._lock:
                piece = self._waiting.pop(self._position, None)
                if piece is None:
                    return
                if not isinstance(piece, int):
                    self._backlog -= len(piece)
            if isinstance(piece, int):
                self._read_back(piece)
            else:
                self._hash.update(piece)
                self._position += len(piece)

    def _read_back(self, length: int) -> None:
        end = self._position + length
        while self._position < end:
            block = os.pread(self._descriptor, min(BLOCK, end - self._position), self._position)
            if not block:
                raise RunError("A file of the result became shorter while it was digested.")
            self._hash.update(block)
            self._position += len(block)
