"""Runs in children of one process that has torch and TRL in memory already: a trial takes a second, not ten."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHIM = Path(__file__).with_name("shim.c")


@dataclass(frozen=True)
class Ended:
    """How a child ended. ``code`` is negative where a signal killed it."""

    code: int
    said: str


def compile_shim(folder: Path) -> Path | None:
    """The shim as a library, or None where there is no C compiler."""
    library = folder / "shim.so"
    try:
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(SHIM), "-ldl"], check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return library


def warm() -> None:
    """Import what the runs need, once. Nothing may be computed here: threads do not survive a fork."""
    import torch
    import trl  # noqa: F401

    torch.set_num_threads(1)
    from alignkit.stages.distill import run as _d
    from alignkit.stages.dpo import run as _p
    from alignkit.stages.merge import run as _m
    from alignkit.stages.reward import run as _r
    from alignkit.stages.rlhf import run as _l
    from alignkit.stages.sft import run as _s

    assert all((_d, _p, _m, _r, _l, _s))


def spawn(work: Callable[[], Any]) -> tuple[int, Path]:
    """Start ``work`` in a child; its process and the file of what it says."""
    said = Path(tempfile.mkstemp(prefix="torture-", suffix=".log")[1])
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid, said
    code = 1
    try:
        os.setsid()
        descriptor = os.open(said, os.O_WRONLY | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(one, signal.SIG_DFL if one != signal.SIGINT else signal.default_int_handler)
        work()
        code = 0
    except BaseException as error:  # the child ends here, whatever it was
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = getattr(error, "exit_code", 1)
    finally:
        with suppress(Exception):
            sys.stderr.flush()
        os._exit(code)


def wait(pid: int, said: Path, *, seconds: float = 120) -> Ended:
    """The end of a child; one that hangs is killed and counts as code -9 with a word about it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            text = said.read_text(encoding="utf-8", errors="replace")
            said.unlink(missing_ok=True)
            return Ended(os.waitstatus_to_exitcode(status), text)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return Ended(-9, "it hung")


def run(request: tuple[str, list[str]], *before: Callable[[], Any]) -> Ended:
    """Train in a child, after ``before``."""
    return wait(*spawn(lambda: train(request, *before)))


def train(request: tuple[str, list[str]], *before: Callable[[], Any]) -> None:
    from alignkit import journey

    for one in before:
        one()
    journey.train(*request)


def shim() -> Any:
    """The library that stands before libc in this process."""
    library = ctypes.CDLL(None)
    library.torture_arm.argtypes = [ctypes.c_long, ctypes.c_char_p]
    library.torture_fill.argtypes = [ctypes.c_longlong, ctypes.c_char_p]
    library.torture_calls.restype = ctypes.c_long
    return library


@contextmanager
def patched(target: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(target, name)
    setattr(target, name, value)
    try:
        yield
    finally:
        setattr(target, name, before)


def weights(root: Path) -> dict[str, str]:
    """SHA-256 of every file of the one result below ``root``, but the card and what says where it was made."""
    [model] = root.glob("*/model")
    return {
        str(file.relative_to(model)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(model.rglob("*"))
        if file.suffix == ".safetensors"
    }


def resumed_from(root: Path) -> int:
    """Step that the complete run below ``root`` was resumed from; 0: it was not."""
    [manifest] = root.glob("*/manifest.json")
    training = json.loads(manifest.read_text(encoding="utf-8"))["metrics"].get("training") or {}
    return int(training.get("resumed_from_step") or 0)


def steps_done(root: Path) -> int:
    """Steps that a run had told of when it died."""
    lines = []
    for file in root.glob("*/metrics.jsonl"):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                lines.append(int(json.loads(line).get("step", 0)))
    return max(lines, default=0)
