"""What transformers prints while it reads and writes: said by us where a person needs it, else not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_library(*, bars: bool = False) -> Iterator[None]:
    """No warnings of transformers, and no progress bars unless `bars` (a download deserves one)."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    active = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if active:
            logging.enable_progress_bar()
