"""Rows from stdin: kept in a file first, so that they have an identity, can be read twice, and survive a resume."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from alignkit.errors import Fault, RequestError

STDIN = "-"
FILE = "stdin.jsonl"


def spool_stdin(root: str | os.PathLike[str], where: str) -> Path:
    """Write all of stdin to ``ROOT/.stdin-DIGEST.jsonl`` and return it; the same rows give the same file.

    Raises RequestError when stdin is a terminal (nobody pipes anything) or empty.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise RequestError(
            Fault(
                where=where, what="- reads rows from stdin, and nothing is piped in", instead="Write cat rows.jsonl | …"
            )
        )
    place = Path(root).expanduser().resolve()
    place.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile(dir=place, prefix=".stdin-", suffix=".part", delete=False) as file:
        while block := sys.stdin.buffer.read(1 << 20):
            digest.update(block)
            file.write(block)
        size = file.tell()
    if not size:
        Path(file.name).unlink()
        raise RequestError(Fault(where=where, what="stdin is empty", instead="Pipe JSON lines into the command."))
    target = place / f".stdin-{digest.hexdigest()[:16]}.jsonl"
    Path(file.name).rename(target)
    return target


def keep_in_run(spooled: Path, run: Path) -> Path:
    """Move a spooled file into its run's directory; one that a run begun earlier holds already stays."""
    target = run / FILE
    if target.exists():
        spooled.unlink(missing_ok=True)
    else:
        shutil.move(spooled, target)
    return target
