"""How far a merge or an extraction is: a bar for a person at a terminal, a line now and then for a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from alignkit.console import log

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def counting_bytes(total: int, what: str = "merging") -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of bytes just finished."""
    if log.is_terminal() and log.verbosity >= log.NORMAL:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=log.console(), transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda count: bar.advance(task, count)
        return
    done, spoke = 0, time.monotonic()

    def count(nbytes: int) -> None:
        nonlocal done, spoke
        done += nbytes
        if done < total and time.monotonic() - spoke >= SECONDS_BETWEEN_LINES:
            spoke = time.monotonic()
            log.say(f"{what}: {done / 1e9:.2f} of {total / 1e9:.2f} GB")

    yield count
