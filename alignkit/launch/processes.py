"""A run on several processes of this machine: started, watched, and ended together.

The parent composes the recipe, opens the run and gives both to its children; each is one rank (RANK, LOCAL_RANK,
WORLD_SIZE, MASTER_ADDR and MASTER_PORT are those that torch.distributed and accelerate read). The children are in
process groups of their own: a Ctrl-C reaches the parent, which hands it on, so that all of them end the same step.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from alignkit import journey
from alignkit.config.compose import Composed
from alignkit.config.sections import Launch
from alignkit.console import log
from alignkit.console.libraries import kept_quiet
from alignkit.console.streams import stdout_to_stderr
from alignkit.errors import AlignkitError, Interrupted, RunError
from alignkit.launch import failures
from alignkit.launch.failures import Failure
from alignkit.launch.worker import REQUEST

LOOK = 0.05
"""Seconds between two looks at the children."""
GRACE = 1.0
"""Seconds that the others have to say something of their own when one has failed."""
HANDED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def train(composed: Composed, *, fresh: bool, verbosity: int, allow_code: bool) -> journey.Result:
    """`journey.train` with the run's work in several processes. Raises what the first of them to fail raised."""
    log.set_verbosity(verbosity)
    with stdout_to_stderr(), kept_quiet():
        found = journey.begin(composed, fresh=fresh, allow_code=allow_code)
        if isinstance(found, journey.Result):
            return found
        launch = found.composed.recipe.launch
        number = processes(launch)
        log.say(f"{number} processes, {launch.engine}")
        with tempfile.TemporaryDirectory(prefix="alignkit-") as place:
            folder = Path(place)  # readable by this user alone
            (folder / REQUEST).write_bytes(pickle.dumps((found, verbosity)))
            failure = _watch(_Children(launch, number, folder))
        if failure is not None:
            raise _error(failure, number, found)
        return journey.finished(found)


def processes(launch: Launch) -> int:
    """How many a recipe asks for on this machine."""
    if launch.processes != "auto":
        return launch.processes
    if launch.device == "cpu":
        return 1
    import torch

    return max(1, int(torch.cuda.device_count()))


class _Children:
    """The processes of a run."""

    def __init__(self, launch: Launch, number: int, folder: Path) -> None:
        self.folder = folder
        self.asked = False
        """Whether they were asked to stop."""
        port = _free_port()
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        for rank in range(number):
            self.running[rank] = subprocess.Popen(
                [sys.executable, "-m", "alignkit.launch.worker"],
                env={**os.environ, **_environment(launch, rank, number, port), failures.FOLDER: str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=2,
                start_new_session=True,
            )

    def send(self, signum: int) -> None:
        """A signal to all that still run."""
        for child in self.running.values():
            with suppress(ProcessLookupError):
                child.send_signal(signum)

    def ended(self) -> Iterator[tuple[int, int]]:
        """Rank and exit code of those that have ended since the last look."""
        for rank, child in list(self.running.items()):
            code = child.poll()
            if code is not None:
                del self.running[rank]
                yield rank, code

    def kill(self) -> None:
        """No process stays."""
        self.send(signal.SIGKILL)
        for child in self.running.values():
            child.wait()
        self.running.clear()


def _watch(children: _Children) -> Failure | None:
    """Wait for all; when one fails, end the others, and give the failure that came first."""
    failed: list[Failure] = []
    deadline = float("inf")
    try:
        with _handing_on(children):
            while children.running and time.monotonic() < deadline:
                for rank, code in children.ended():
                    if code:
                        failed.append(failures.read(children.folder, rank, code))
                        deadline = min(deadline, time.monotonic() + GRACE)
                time.sleep(LOOK)
    finally:
        children.kill()
    # One that was killed said nothing; the others only say that they lost it.
    return min(failed, key=lambda one: (one.code >= 0 and bool(one.text), one.time), default=None)


@contextmanager
def _handing_on(children: _Children) -> Iterator[None]:
    """Signals that ask the run to stop go to the children, which end the step that they are in."""

    def hand_on(signum: int, frame: FrameType | None) -> None:
        if children.asked:  # the second time: a process may hang and not hear it
            children.kill()
            raise Interrupted(signum, "Stopped at once. The same command goes on from the last checkpoint.")
        children.asked = True
        children.send(signum)

    before = {one: signal.getsignal(one) for one in HANDED_ON}
    mine = [one for one in HANDED_ON if not (one == signal.SIGHUP and before[one] == signal.SIG_IGN)]
    for one in mine:
        signal.signal(one, hand_on)
    try:
        yield
    finally:
        for one in mine:
            signal.signal(one, before[one])


def _environment(launch: Launch, rank: int, number: int, port: int) -> Mapping[str, str]:
    settings = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(number),
        "LOCAL_WORLD_SIZE": str(number),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    if launch.device == "cpu":
        settings["CUDA_VISIBLE_DEVICES"] = ""
    if "OMP_NUM_THREADS" not in os.environ:
        settings["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // number))
    return settings


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _error(failure: Failure, number: int, begun: journey.Begun) -> AlignkitError:
    """What the parent raises for a child's failure."""
    if not failure.text:
        ended = f"signal {-failure.code}" if failure.code < 0 else f"exit code {failure.code}"
        more = " Signal 9 mostly means that the machine ran out of memory." if failure.code == -signal.SIGKILL else ""
        who = f"Process {failure.rank} of {number}"
        sentence = f"{who} ended by {ended} without a word.{more} The same command goes on from the last checkpoint."
        begun.run.fail(sentence)
        return RunError(sentence)
    if failure.code > 128:
        return Interrupted(failure.code - 128, failure.text)
    where = f"Process {failure.rank} of {number}: " if failure.rank else ""
    error: Any = RunError(where + failure.text)
    error.exit_code = failure.code
    if failure.rank:
        begun.run.fail(str(error))
    return error  # type: ignore[no-any-return]
