"""A directory that is whole or not there: made beside its place under another name, then renamed. No torch."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path


def replace_directory(temporary: Path, directory: Path) -> None:
    """Put a finished directory in its place; one that stands there is moved aside first and then removed."""
    temporary.chmod(0o777 & ~_umask())  # mkdtemp makes it private, and safetensors its files
    for file in temporary.rglob("*.safetensors"):
        file.chmod(0o666 & ~_umask())
    if directory.exists():
        aside = Path(tempfile.mkdtemp(prefix=f".{directory.name}-old-", dir=directory.parent))
        directory.rename(aside / "old")
        temporary.rename(directory)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        temporary.rename(directory)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
