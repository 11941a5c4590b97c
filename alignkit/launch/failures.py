"""What a process of a run says when it fails, kept for the parent that started it.

When one process ends, the others fail a moment later because they lost it. Each writes its sentence with the time into
a file of the parent's, and the parent says the first one.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from alignkit import ranks

FOLDER = "ALIGNKIT_LAUNCH"
"""Environment variable: the parent's folder."""


@dataclass(frozen=True)
class Failure:
    """Why a process ended. ``text`` is empty when it said nothing."""

    rank: int
    code: int
    text: str
    time: float
    """Seconds since 1970."""


def launched() -> bool:
    """Whether a parent of ours started this process, and speaks for it."""
    return FOLDER in os.environ


def record(text: str, code: int) -> None:
    """Leave a sentence for the parent."""
    file = Path(os.environ[FOLDER]) / f"failure-{ranks.rank()}.json"
    with suppress(OSError):
        file.write_text(json.dumps({"text": text, "code": code, "time": time.time()}), encoding="utf-8")


def read(folder: Path, rank: int, code: int) -> Failure:
    """What a process left that ended with an exit code; negative: the signal that killed it."""
    try:
        found = json.loads((folder / f"failure-{rank}.json").read_text(encoding="utf-8"))
        return Failure(rank, int(found["code"]), str(found["text"]), float(found["time"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Failure(rank, code, "", time.time())
