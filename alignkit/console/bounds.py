"""A limit in time and memory for what somebody else wrote: a chat template, a regular expression.

Nothing here runs in a process of its own: an alarm interrupts Python's loops and its regular expressions (which look
for signals as they search), and the address space may grow by so much and no more.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alignkit.errors import RunError

PATTERN_SECONDS = 1.0
"""For one search in one text: a pattern takes microseconds, and one that explodes more than a life."""


class TooMuchError(RunError):
    """The limit was reached; the text says which, as in "took more than 5 s"."""


class _LateError(BaseException):
    """Past every handler on the way: whoever catches Exception around a template must not catch this."""


@contextmanager
def bounded(seconds: float | None, memory: int | None = None) -> Iterator[None]:
    """Raises TooMuchError where the body takes more wall time, or grows the process by more than ``memory`` bytes.

    None: as much as it wants. The time is watched in the main thread only (signals arrive nowhere else), the memory on
    Linux only. May be nested: an alarm that ran before rings when it would have.
    """
    try:
        with _alarm(seconds), _room(memory):
            yield
    except MemoryError:
        if memory is None:
            raise
        raise TooMuchError(f"took more than {memory / 1e9:g} GB of memory") from None


@contextmanager
def _alarm(seconds: float | None) -> Iterator[None]:
    if seconds is None or threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    late = _LateError()
    outer, every = signal.getitimer(signal.ITIMER_REAL)
    sooner = bool(outer) and outer < seconds
    before = signal.getsignal(signal.SIGALRM)
    rang = False

    def ring(number: int, frame: Any) -> None:
        nonlocal rang
        rang = True
        if sooner and callable(before):
            before(number, frame)
        else:
            raise late

    began = time.monotonic()
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, outer if sooner else seconds)
    try:
        yield
    except _LateError as error:
        if error is not late:
            raise
        raise TooMuchError(f"took more than {seconds:g} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if outer and not (sooner and rang):
            signal.setitimer(signal.ITIMER_REAL, max(1e-3, outer - (time.monotonic() - began)), every)


def found(pattern: re.Pattern[str], text: str) -> bool:
    """Whether a pattern that somebody else may have written is found. Raises TooMuchError."""
    try:
        with bounded(PATTERN_SECONDS):
            return pattern.search(text) is not None
    except TooMuchError as limit:
        raise TooMuchError(
            f"The pattern {pattern.pattern[:200]!r} {limit} on one text. Write it without repetitions in repetitions."
        ) from None


@contextmanager
def _room(memory: int | None) -> Iterator[None]:
    """An address space that may grow by ``memory`` bytes; without a limit where there is no /proc."""
    if memory is None or sys.platform != "linux":
        yield
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * os.sysconf("SC_PAGE_SIZE") + memory
    if soft != resource.RLIM_INFINITY and soft <= wanted:
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
