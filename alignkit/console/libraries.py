"""What libraries say on their own goes to the log, not over the person's screen, unless -v asks for it."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alignkit.console import log

ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "BITSANDBYTES_NOWELCOME": "1",
}
"""Set before the libraries are imported, where the person has not set them otherwise."""


LOUD = ("bitsandbytes", "accelerate", "peft", "trl")
"""Loggers whose warnings are about what this program already decided."""


@contextmanager
def kept_quiet() -> Iterator[None]:
    """No telemetry, no progress bars of others; warnings become lines of the log (and of the screen with -v)."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for library in LOUD:
        logging.getLogger(library).setLevel(logging.ERROR if log.verbosity < log.VERBOSE else logging.INFO)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = _note
        yield


def _note(message: Warning | str, category: type[Warning], filename: str, *rest: object, **options: object) -> None:
    log.detail(f"{category.__name__} in {Path(filename).name}: {message}")
