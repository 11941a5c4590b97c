"""Small JSON files of a model directory, read with errors a person can act on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alignkit.errors import Fault, RequestError


def read_object(path: Path, where: str) -> dict[str, Any]:
    """The JSON object in `path`. Raises RequestError naming `where` when it cannot be read or is no object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RequestError(
            Fault(where=where, what=f"{path} cannot be read as JSON ({error})", instead="Download or save it again.")
        ) from error
    if not isinstance(value, dict):
        raise RequestError(
            Fault(where=where, what=f"{path} holds no JSON object", instead="Download or save it again.")
        )
    return value
