"""What an index of shards may name. No numpy here: a recipe is checked with it."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath


def stays_inside(file: str) -> bool:
    """Whether a name in an index is that of a file in its own directory, on any system: no path, no drive, no dots."""
    return bool(file) and file not in (".", "..") and PurePosixPath(file).name == PureWindowsPath(file).name == file
