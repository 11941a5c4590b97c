"""The classes of faults. Each yields (what was tried, why it was lost or None) for one trial after the other."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.torture import child
from tests.torture.families import MERGED, TRAINED, request

Trial = tuple[str, str | None]
EVERY = 2
"""Steps between checkpoints."""


class Ground:
    """Where the trials happen, and what each family comes to when nothing disturbs it."""

    def __init__(self, here: Path, seed: int, *, many: bool) -> None:
        self.here, self.many = here, many
        self.random = random.Random(seed)
        self.wanted: dict[str, dict[str, str]] = {}
        self.seconds: dict[str, float] = {}
        self._number = 0

    def root(self) -> Path:
        """A new folder for runs."""
        self._number += 1
        return self.here / f"trial-{self._number}"

    def undisturbed(self, family: str) -> dict[str, str]:
        """The weights of a whole run."""
        if family not in self.wanted:
            root = self.root()
            began = time.monotonic()
            ended = child.run(request(family, self.here, root))
            assert ended.code == 0, f"{family}: {ended.said[-2000:]}"
            self.seconds[family] = time.monotonic() - began
            self.wanted[family] = child.weights(root)
            assert self.wanted[family]
            shutil.rmtree(root)
        return self.wanted[family]

    def goes_on(self, family: str, root: Path) -> str | None:
        """Give the same command again: why the run is lost, or None."""
        before = 0 if list(root.glob("*/manifest.json")) else child.steps_done(root)
        ended = child.run(request(family, self.here, root))
        if ended.code:
            return f"the same command ended with {ended.code}: {ended.said.strip().splitlines()[-1:]}"
        if child.weights(root) != self.undisturbed(family):
            return "other weights"
        if family in TRAINED and child.resumed_from(root) < before - before % EVERY - EVERY:
            return f"step {before} was done, and it went on from {child.resumed_from(root)}"
        shutil.rmtree(root)
        return None


def killed_in_a_save(ground: Ground, families: list[str]) -> Iterator[Trial]:
    """SIGKILL at every write, fsync and rename below the checkpoints' folder."""
    for family in families:
        ground.undisturbed(family)
        root, told = ground.root(), ground.here / "calls"
        armed = child.wait(*child.spawn(lambda r=root, f=family, t=told: _counting(f, ground, r, t)))
        assert armed.code == 0, armed.said[-2000:]
        calls = int(told.read_text())
        shutil.rmtree(root)
        places = range(1, calls + 1) if ground.many else sorted(ground.random.sample(range(1, calls + 1), 4))
        for place in places:
            root = ground.root()
            ended = child.run(request(family, ground.here, root), lambda at=place: _arm(at))
            lost = None if ended.code == -signal.SIGKILL else f"it was not killed: {ended.code}"
            yield f"{family}, call {place} of {calls}", lost or ground.goes_on(family, root)


def _arm(at: int) -> None:
    child.shim().torture_arm(at, b"/checkpoints/")


def _counting(family: str, ground: Ground, root: Path, told: Path) -> None:
    child.train(request(family, ground.here, root), lambda: _arm(0))
    told.write_text(str(child.shim().torture_calls()))


def killed_at_random(ground: Ground, families: list[str]) -> Iterator[Trial]:
    """SIGKILL at random moments of a run."""
    for family in families:
        ground.undisturbed(family)
        for _ in range(100 if ground.many else 2):
            root = ground.root()
            pid, said = child.spawn(lambda root=root, family=family: child.train(request(family, ground.here, root)))
            after = ground.random.uniform(0, ground.seconds[family])
            time.sleep(after)
            os.kill(pid, signal.SIGKILL)
            child.wait(pid, said)
            yield f"{family}, after {after:.2f} s", ground.goes_on(family, root)


def damaged_files(ground: Ground, families: list[str]) -> Iterator[Trial]:
    """Each file of the newest checkpoint removed, cut in half, one bit of it flipped."""
    from alignkit.training.checkpoints import all_checkpoints, damage

    for family in families:
        ground.undisturbed(family)
        root = ground.root()
        stop = child.run(request(family, ground.here, root), lambda: _ask_at(signal.SIGTERM, 5))
        assert stop.code == 128 + signal.SIGTERM, stop.said[-2000:]
        [run] = root.glob("*-*")
        newest = all_checkpoints(run / "checkpoints")[0]
        files = sorted(file for file in newest.rglob("*") if file.is_file())
        for file in files:
            for how, harm in (("removed", _remove), ("cut in half", _cut), ("one bit", ground_flip(ground.random))):
                whole = file.read_bytes()
                if how == "cut in half" and len(whole) < 2:
                    continue
                harm(file)
                found = damage(newest)
                name = file.relative_to(newest).as_posix()
                file.write_bytes(whole)
                yield f"{family}, {name}, {how}", None if found and name in found else f"it was said to be {found}"
        assert damage(newest) is None
        _cut(files[0])
        yield f"{family}, resumed with {files[0].name} cut", _older(ground, family, root)


def _older(ground: Ground, family: str, root: Path) -> str | None:
    return ground.goes_on(family, root)


def _remove(file: Path) -> None:
    file.unlink()


def _cut(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def ground_flip(numbers: random.Random) -> Callable[[Path], None]:
    """One bit of a file, anywhere."""

    def flip(file: Path) -> None:
        data = bytearray(file.read_bytes())
        bit = numbers.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(bytes(data))

    return flip


def full_disk(ground: Ground, families: list[str]) -> Iterator[Trial]:
    """No room below the checkpoints' folder after so many bytes."""
    for family in families:
        ground.undisturbed(family)
        root = ground.root()
        assert child.run(request(family, ground.here, root)).code == 0
        [run] = root.glob("*-*")
        newest = max((run / "checkpoints").glob("checkpoint-*"), key=lambda one: one.stat().st_mtime)
        bytes_each = sum(file.stat().st_size for file in newest.rglob("*") if file.is_file())
        shutil.rmtree(root)
        for place in range(10) if ground.many else (3, 6):
            room = int(bytes_each * (1 + (place + ground.random.random()) / 10))  # the second save does not fit
            root = ground.root()
            ended = child.run(
                request(family, ground.here, root), lambda at=room: child.shim().torture_fill(at, b"/checkpoints/")
            )
            lost = None
            if ended.code != 1 or "RunError" not in ended.said or "could not be written" not in ended.said:
                lost = f"it ended with {ended.code}: {ended.said.strip().splitlines()[-1:]}"
            yield f"{family}, {room} bytes", lost or ground.goes_on(family, root)


def signals(ground: Ground, families: list[str]) -> Iterator[Trial]:
    """SIGTERM, SIGINT, SIGHUP in step k: a checkpoint of that step, and the exit code that shells expect."""
    for family in families:
        ground.undisturbed(family)
        for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            step = ground.random.choice((1, 3, 5))
            root = ground.root()
            ended = child.run(request(family, ground.here, root), lambda s=one, k=step: _ask_at(s, k))
            lost = None if ended.code == 128 + one else f"it ended with {ended.code}"
            if not lost and not list(root.glob(f"*/checkpoints/checkpoint-{step}/digests.json")):
                lost = f"no checkpoint of step {step}"
            yield f"{family}, {signal.Signals(one).name} in step {step}", lost or ground.goes_on(family, root)


def _ask_at(signum: int, step: int) -> None:
    """A signal reaches this process while it is in the forward pass of a step."""
    from alignkit.training.trainer import GuardedTrainer

    before = GuardedTrainer.training_step

    def asked(self: GuardedTrainer, *args: object, **kwargs: object) -> object:
        if self.state.global_step == step - 1:
            os.kill(os.getpid(), signum)
            GuardedTrainer.training_step = before  # type: ignore[method-assign]
        return before(self, *args, **kwargs)

    GuardedTrainer.training_step = asked  # type: ignore[method-assign]


EVERYTHING = [*TRAINED, *MERGED]
