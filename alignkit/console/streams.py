"""Keep stdout for the answer: while a stage runs, whatever writes to descriptor 1 lands on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Point descriptor 1 and ``sys.stdout`` at stderr, and put both back afterwards.

    Libraries print to ``sys.stdout``, C code and child processes write to descriptor 1: both are turned,
    so `$(alignkit train …)` receives the path and nothing else. A notebook's ``sys.stdout`` is not
    descriptor 1; it is restored as it was.
    """
    python_stdout = sys.stdout
    python_stdout.flush()
    saved: int | None = None
    try:
        saved = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # descriptor 1 or 2 is closed: nothing to protect
        saved = None
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stdout = python_stdout
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)
