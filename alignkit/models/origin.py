"""`alignkit.json` beside an adapter: which file or commit its base was, which PEFT has no room for. No torch."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from alignkit.errors import Fault, RequestError
from alignkit.models.locating import Source, read_origin


def base_record(source: Source, directory: Path) -> dict[str, Any]:
    """What is noted of the base `source` of an adapter that will stand in `directory`; locating.py finds it again."""
    base: dict[str, Any] = {"kind": source.kind}
    if source.hub_name is not None:
        base["hub_name"] = source.hub_name
        base["revision"] = source.revision
    if source.installed_file is not None:
        base["installed_file"] = source.installed_file
    if source.path is not None:
        base["path"] = str(source.path)
        if source.installed_file is None:
            base["relative"] = os.path.relpath(source.path, directory)
    if source.kind == "gguf" and source.path is not None:
        base["sha256"] = _sha256(source.path)
    return base


def require_same_base(source: Source) -> None:
    """A GGUF base is told by its digest: another quantization of the same model is another base. RequestError if so."""
    assert source.path is not None
    base = (read_origin(source.path) or {}).get("base")
    wanted = base.get("sha256") if isinstance(base, dict) else None
    parent = source.parent
    if wanted is None or parent is None or parent.kind != "gguf" or parent.path is None:
        return
    if _sha256(parent.path) != wanted:
        raise RequestError(
            Fault(
                where="model.name",
                what=f"the adapter {source.path} was trained on another version of {parent.path.name}",
                instead=f"Bring back the file with SHA-256 {wanted[:16]}….",
            )
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
