"""Links in a directory that somebody else made: what a person names is followed, what a directory brings is not."""

from __future__ import annotations

from pathlib import Path


def leads_out(directory: Path, file: Path) -> bool:
    """Whether a file of a directory is a link to somewhere else. A snapshot in the hub's cache holds nothing but links
    to the blobs beside it, which belong to it (`models--owner--name/snapshots/COMMIT/file` → `../../blobs/DIGEST`)."""
    if not file.is_symlink():
        return False
    home = directory.resolve()
    if home.parent.name == "snapshots" and home.parent.parent.name.startswith(("models--", "datasets--")):
        home = home.parent.parent
    return not file.resolve().is_relative_to(home)
