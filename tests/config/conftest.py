"""A directory of one's own to stand in, and a shorthand to compose there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from alignkit.config.compose import Composed, compose


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def write(here: Path) -> Callable[[str, str], Path]:
    """Write a file below the working directory."""

    def write(name: str, text: str) -> Path:
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def told(name: str, *words: str) -> list[str]:
    """Faults of a recipe as text."""
    return [str(fault) for fault in compose(name, words).faults]


def fine(name: str, *words: str) -> Composed:
    """The recipe, which must have no fault."""
    return compose(name, words).checked()


NAMED = ("model=./m", "data=./d.jsonl")
"""What the shipped recipes leave to the user."""
