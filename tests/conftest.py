"""Fixtures that several tests share."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

# Two test processes on two cores: more threads than cores make each other wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# A cache of the tests' own: they neither use nor fill the user's.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="alignkit-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
# A shell starts what it puts into the background with these ignored, and so would be every command that a test starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with a ChatML tokenizer, as a directory. Read-only by convention."""
    from tests.tiny import save_tiny

    return save_tiny(tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """Twenty-four short conversations as JSONL."""
    from tests.tiny import write_chats

    return write_chats(tmp_path / "chats.jsonl")
