"""One hostile input: how it is laid out, what is typed, and what must come of it."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.hostile.watching import PLANTED, watching

SECRET = "hunter2-never-to-be-seen"
SECONDS = 20
"""An attack that is not refused by then is one that works: it would run for ever."""
MEGABYTES = 700
"""An attack may not make the process grow by more."""


@dataclass
class Ground:
    """The folder of one attack. `here` is the working directory, `outside` what nothing in it may reach."""

    here: Path
    outside: Path
    model: Path
    """A sound tiny model; read-only."""
    rows: Path
    """Sound rows; read-only."""

    @property
    def canary(self) -> Path:
        """Made by a payload that ran."""
        return self.here.parent / "canary"

    @property
    def secret(self) -> Path:
        return self.outside / "secret.txt"

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content, encoding="utf-8")
        return path

    def shell(self) -> str:
        """What an attacker would have a shell do."""
        return f"touch {self.canary}"

    def python(self) -> str:
        """The same in Python."""
        return f"import os; open({str(self.canary)!r}, 'w').close()\n"

    def pickle(self, protocol: int = 2) -> bytes:
        """A pickle that runs the payload when it is loaded."""
        return pickle.dumps(Payload(self.shell()), protocol)

    def sound(self) -> list[str]:
        """Words that complete a recipe with a sound model and sound rows."""
        return [f"model={self.model}", f"data={self.rows}", *QUICK]


QUICK = (
    "run.root=runs",
    "data.max_length=64",
    "data.holdout=2",
    "evaluation.rows=0",
    "batch.size=2",
    "schedule.max_steps=1",
    "model.dtype=fp32",
)


class Payload:
    """Pickled, it calls os.system on whoever loads it."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@dataclass(frozen=True)
class Attack:
    """A line in a table. `lay` writes what the attacker sends and returns what a person types after `alignkit`."""

    name: str
    lay: Callable[[Ground], list[str]]
    says: str
    """A pattern that the sentence on stderr must fit: the place and what is wrong."""
    code: int = 2
    never: tuple[str, ...] = field(default=())
    """Further texts that may not appear."""
    megabytes: int = MEGABYTES


@dataclass(frozen=True)
class Told:
    """How a command ended."""

    code: int
    out: str
    err: str
    seconds: float


def command(words: list[str], here: Path) -> Told:
    """`alignkit WORDS` in this process, through what the shell calls, in a working directory."""
    from alignkit.cli.main import entry

    out, err = io.StringIO(), io.StringIO()
    began, before = time.monotonic(), list(sys.path)
    with contextlib.chdir(here), _captured() as read, _limit(SECONDS):
        # `python -m alignkit` looks for modules in the working directory first.
        sys.path.insert(0, str(here))
        try:
            entry(words)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        finally:
            sys.path[:] = before
            out.write(read()[0])
            err.write(read()[1])
    return Told(code, out.getvalue(), err.getvalue(), time.monotonic() - began)


def mount(attack: Attack, ground: Ground) -> Told:
    """Lay the attack out, type what a person would, and assert all that must hold of any attack."""
    ground.write(f"{PLANTED}.py", ground.python())
    ground.secret.parent.mkdir(parents=True, exist_ok=True)
    ground.secret.write_text(SECRET, encoding="utf-8")
    words = attack.lay(ground)
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with watching(ground.here, ground.outside) as watch:
        told = command(words, ground.here)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - size) / 1024
    shown = f"\n{' '.join(words)[:300]}\n-> {told.code} after {told.seconds:.1f} s, {grown:.0f} MB\n{told.err[-2000:]}"
    assert not ground.canary.exists(), f"the payload ran{shown}"
    assert not watch.seen, f"{watch.seen[:5]}{shown}"
    assert "Traceback (most recent call last)" not in told.err, shown
    assert "did not expect" not in told.err, shown
    assert told.code == attack.code, shown
    assert re.search(attack.says, told.err, re.DOTALL), shown
    assert grown < attack.megabytes, shown
    for text in (SECRET, "\x1b]", "\x1b[2J", "\u202e", *attack.never):
        assert text not in told.err + told.out, shown
    assert not told.out or told.code == 0, shown
    return told


@contextlib.contextmanager
def _captured() -> Iterator[Callable[[], tuple[str, str]]]:
    """Descriptors 1 and 2 into files, as C code writes there too."""
    import tempfile

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        kept = os.dup(1), os.dup(2)
        python = sys.stdout, sys.stderr
        for stream in python:
            stream.flush()
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
        sys.stderr = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace")

        def read() -> tuple[str, str]:
            sys.stdout.flush()
            sys.stderr.flush()
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode("utf-8", "backslashreplace"))
                file.seek(0, os.SEEK_END)
            return texts[0], texts[1]

        try:
            yield read
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.close()
            sys.stdout, sys.stderr = python
            os.dup2(kept[0], 1)
            os.dup2(kept[1], 2)
            for descriptor in kept:
                os.close(descriptor)


class TooLongError(BaseException):
    """The attack was not refused in time; no handler of the product's takes this."""


@contextlib.contextmanager
def _limit(seconds: int) -> Iterator[None]:
    def late(number: int, frame: Any) -> None:
        raise TooLongError(f"not refused within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
