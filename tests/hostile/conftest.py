"""The ground that attacks are laid out on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.attack import Ground


@pytest.fixture(scope="session")
def warm() -> None:
    """What commands import, imported: some libraries start processes while they are."""
    import peft
    import torch
    import transformers
    import trl
    from trl import SFTTrainer

    assert peft and torch and transformers and trl and SFTTrainer


@pytest.fixture
def ground(tmp_path: Path, tiny_llama: Path, warm: None) -> Ground:
    """A folder of the test's own, a sound model and sound rows."""
    from tests.tiny import write_chats

    here = tmp_path / "here"
    here.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    return Ground(here, outside, tiny_llama, write_chats(tmp_path / "rows.jsonl", 12))
