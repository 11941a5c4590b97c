"""What an index of shards may name, and where its files may lead. No numpy here: a recipe is checked with it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath


def stays_inside(file: str) -> bool:
    """Whether a name in an index is that of a file in its own directory, on any system: no path, no drive, no dots."""
    return bool(file) and file not in (".", "..") and PurePosixPath(file).name == PureWindowsPath(file).name == file


def leads_out(directory: Path, file: Path) -> bool:
    """Whether a file of a directory is a link to somewhere else. A snapshot in the hub's cache holds nothing but links
    to the blobs beside it, which belong to it (`models--owner--name/snapshots/COMMIT/file` → `../../blobs/DIGEST`)."""
    if not file.is_symlink():
        return False
    home = directory.resolve()
    if home.parent.name == "snapshots" and home.parent.parent.name.startswith("models--"):
        home = home.parent.parent
    return not file.resolve().is_relative_to(home)
