"""Models that the merge tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stages.merge.models import save


@pytest.fixture(scope="session")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `base`, `a`, `b` (two layers) and `deep` (four layers)."""
    place = tmp_path_factory.mktemp("llamas")
    for seed, name in enumerate(["base", "a", "b"]):
        save(place / name, "llama", seed)
    save(place / "deep", "llama", 3, layers=4)
    return place


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
