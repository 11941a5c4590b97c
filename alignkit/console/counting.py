"""A line that counts on a terminal while many rows are read, and is gone afterwards."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from alignkit.console import log

T = TypeVar("T")

PATIENCE = 2.0
"""Seconds before the line appears, so that short work shows nothing."""
PAUSE = 0.5
"""Seconds between two counts."""
CLEAR = "\r\x1b[2K"


def counted(items: Iterable[T], what: str) -> Iterator[T]:
    """Hand items on and count them on stderr: "chats.jsonl: 120,000 rows …". Nothing in a pipe, or with -q."""
    if not log.is_terminal() or log.verbosity < log.NORMAL:
        yield from items
        return
    due = time.monotonic() + PATIENCE
    shown = False
    try:
        for number, item in enumerate(items, 1):
            yield item
            if number % 64 == 0 and time.monotonic() >= due:
                due, shown = time.monotonic() + PAUSE, True
                sys.stderr.write(f"{CLEAR}{what}: {number:,} rows …")
                sys.stderr.flush()
    finally:
        if shown:
            sys.stderr.write(CLEAR)
            sys.stderr.flush()
