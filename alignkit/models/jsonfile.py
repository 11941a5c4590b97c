"""Small JSON files of a model directory, read with errors a person can act on."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from alignkit.config.links import leads_out
from alignkit.errors import Fault, RequestError

LARGEST = 200_000_000
"""Bytes: an index of the largest models has some ten million."""


def read_object(path: Path, where: str) -> dict[str, Any]:
    """The JSON object in `path`. Raises RequestError naming `where` when it cannot be read or is no object."""
    try:
        value = json.loads(_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(
            Fault(where=where, what=f"{path} cannot be read as JSON ({error})", instead="Download or save it again.")
        ) from error
    if not isinstance(value, dict):
        raise RequestError(
            Fault(where=where, what=f"{path} holds no JSON object", instead="Download or save it again.")
        )
    return value


def _text(path: Path) -> str:
    """The text of a regular file. Raises OSError for anything else: a pipe would be waited for."""
    if leads_out(path.parent, path):
        raise OSError("it is a link that leads out of its directory")
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is no regular file")
        if status.st_size > LARGEST:
            raise OSError(f"it has {status.st_size / 1e6:,.0f} MB")
        return file.read().decode("utf-8")
