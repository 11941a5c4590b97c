"""Lines and tables for the person at the terminal, on stderr; the run's log.txt gets them all.

Only what a person reads passes here. Answers (a path, a JSON object, a listing) are printed to stdout by
the command line itself.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from alignkit.console.plain import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

SILENT, QUIET, NORMAL, VERBOSE = -2, -1, 0, 1

verbosity: int = NORMAL
_log_file: TextIO | None = None


def set_verbosity(level: int) -> None:
    """-2: nothing (processes beside rank 0); -1: warnings and errors only; 0: the story; 1: details too."""
    global verbosity
    verbosity = level


def is_terminal() -> bool:
    """Whether a person is watching stderr."""
    return sys.stderr.isatty()


def width() -> int:
    """Columns to lay tables out for: the terminal's, 100 in a file, or what COLUMNS says."""
    if "COLUMNS" in os.environ and os.environ["COLUMNS"].isdigit():
        return max(40, int(os.environ["COLUMNS"]))
    try:
        return max(40, os.get_terminal_size(sys.stderr.fileno()).columns)
    except (OSError, ValueError):
        return 100


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Copy every line into `path` (appended to, with the time of day) while the context lasts."""
    global _log_file
    previous = _log_file
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", errors="replace") as file:
        _log_file = file
        try:
            yield
        finally:
            _log_file = previous


def _record(text: str) -> None:
    if _log_file is not None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        for line in text.splitlines() or [""]:
            _log_file.write(f"{stamp}  {printable(line.rstrip())}\n")
        _log_file.flush()


def _write(text: str) -> None:
    # A reader that went away (`… 2>&1 | head`) must not end a night's training.
    with suppress(BrokenPipeError, OSError):
        print(printable(text), file=sys.stderr, flush=True)


def say(text: str) -> None:
    """One line of the story; hidden by -q."""
    _record(text)
    if verbosity >= NORMAL:
        _write(text)


def detail(text: str) -> None:
    """A line that only -v shows; the log always has it."""
    _record(text)
    if verbosity >= VERBOSE:
        _write(text)


def warn(text: str) -> None:
    """Something the person should know before trusting the result; -q shows it too."""
    _record(f"warning: {text}")
    if verbosity > SILENT:
        _write(f"warning: {text}")


def record(text: str) -> None:
    """Into the log only: tracebacks, what a library printed."""
    _record(text)


def table(renderable: RenderableType) -> None:
    """A rich table on stderr; as plain text in the log."""
    if _log_file is not None:
        _record(as_text(renderable))
    if verbosity >= NORMAL:
        with suppress(BrokenPipeError, OSError):
            console().print(renderable)


def console(**options: Any) -> Console:
    """A rich console on stderr, for progress bars and tables."""
    from alignkit.console.tables import plain_console

    return plain_console(file=sys.stderr, width=width(), **options)


def as_text(renderable: RenderableType, columns: int = 100) -> str:
    """`renderable` as plain text, without colour."""
    from io import StringIO

    from alignkit.console.tables import plain_console

    out = StringIO()
    plain_console(file=out, width=columns, no_color=True).print(renderable)
    return out.getvalue().rstrip("\n")
