"""One process at a time, whatever happens to it."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alignkit.errors import RunError
from alignkit.runs.lock import RunLock, holder

HOLD = """
import sys, time
from alignkit.runs.lock import RunLock
with RunLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""

FORK = """
import os, sys, time
from alignkit.runs.lock import RunLock
with RunLock(sys.argv[1]):
    child = os.fork()
    if child == 0:
        time.sleep(60)
    print(child, flush=True)
    time.sleep(60)
"""


def start(code: str, run: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen([sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_the_second_process_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    process, _ = start(HOLD, tmp_path)
    try:
        with pytest.raises(RunError, match=rf"in use by process {process.pid} .*--fresh") as refusal, RunLock(tmp_path):
            pass
        assert refusal.value.exit_code == 1
        found = holder(tmp_path)
        assert found is not None and found.pid == process.pid and abs(found.started - time.time()) < 60
    finally:
        process.kill()
        process.wait()
    with RunLock(tmp_path):  # the kernel let go of it
        pass


def test_a_worker_that_outlives_a_killed_parent_does_not_keep_the_lock(tmp_path: Path) -> None:
    process, child = start(FORK, tmp_path)
    try:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        os.kill(int(child), 0)  # still there
        with RunLock(tmp_path):
            pass
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_a_forked_child_neither_unlocks_its_parent_nor_hurts_its_own_files(tmp_path: Path) -> None:
    """In the child the lock's descriptor number is free, and soon belongs to another file."""
    other = tmp_path / "other"
    other.write_bytes(b"data")
    with RunLock(tmp_path) as lock:
        child = os.fork()
        if child == 0:
            files = [os.open(other, os.O_RDWR) for _ in range(20)]
            lock.__exit__(None, None, None)
            os._exit(sum(os.fstat(file).st_size != 4 for file in files))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        found = holder(tmp_path)
        assert found is not None and found.pid == os.getpid()


def test_two_threads_of_one_process_are_two(tmp_path: Path) -> None:
    with RunLock(tmp_path), pytest.raises(RunError, match=f"process {os.getpid()}"), RunLock(tmp_path):
        pass


def test_looking_changes_nothing(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    assert not list(tmp_path.iterdir())
    with RunLock(tmp_path):
        pass
    assert holder(tmp_path) is None


def test_a_run_that_was_removed_meanwhile_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="was removed in the meantime"), RunLock(tmp_path / "gone"):
        pass


def test_a_run_that_is_removed_while_its_lock_is_taken_is_not_worked_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    really = fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        shutil.rmtree(run, ignore_errors=True)
        really(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(RunError, match="was removed in the meantime"), RunLock(run):
        pass


def test_a_lock_is_free_after_an_error_in_the_block(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), RunLock(tmp_path):
        raise KeyboardInterrupt
    with RunLock(tmp_path):
        pass
