"""Faults that are no crash: numbers, clocks, neighbours, folders."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from typing import Any

from tests.torture import child
from tests.torture.classes import Ground, Trial
from tests.torture.families import TRAINED, request


def nan(ground: Ground, families: list[str]) -> Iterator[Trial]:
    """A loss that is no number in step k: exit code 3 before the weights move."""
    for family in families:
        ground.undisturbed(family)
        for step in (2, 5) if ground.many else (4,):
            root = ground.root()
            ended = child.run(request(family, ground.here, root), lambda at=step: _poison(at))
            lost = None if ended.code == 3 else f"it ended with {ended.code}: {ended.said.strip().splitlines()[-1:]}"
            yield f"{family}, step {step}", lost or ground.goes_on(family, root)


def _poison(step: int) -> None:
    from alignkit.training.trainer import GuardedTrainer

    before = GuardedTrainer.training_step

    def poisoned(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == step - 1:
            import torch

            first = next(one for one in model.parameters() if one.requires_grad)
            with torch.no_grad():
                first.fill_(float("nan"))
        return before(self, model, *args, **kwargs)

    GuardedTrainer.training_step = poisoned  # type: ignore[method-assign]


def two_at_once(ground: Ground, families: list[str]) -> Iterator[Trial]:
    """The same command twice at the same time: one does it, the other says who does."""
    for family in families:
        ground.undisturbed(family)
        root = ground.root()
        both = [child.spawn(lambda r=root, f=family: child.train(request(f, ground.here, r))) for _ in range(2)]
        ended = sorted((child.wait(*one) for one in both), key=lambda one: one.code)
        lost = None
        if ended[0].code != 0 or ended[1].code not in (0, 1):
            lost = f"they ended with {[one.code for one in ended]}"
        elif ended[1].code == 1 and "is in use by" not in ended[1].said:
            lost = f"the second said: {ended[1].said.strip().splitlines()[-1:]}"
        yield family, lost or ground.goes_on(family, root)


def clock(ground: Ground, families: list[str]) -> Iterator[Trial]:
    """The time of day jumps, by up to a year, back and forth, whenever it is asked for."""
    for family in families:
        ground.undisturbed(family)
        root = ground.root()
        seed = ground.random.random()
        ended = child.run(request(family, ground.here, root), lambda s=seed: _jump(s))
        lost = None if ended.code == 0 else f"it ended with {ended.code}: {ended.said.strip().splitlines()[-1:]}"
        yield family, lost or ground.goes_on(family, root)


def _jump(seed: float) -> None:
    import random

    numbers, now = random.Random(seed), time.time
    time.time = lambda: now() + numbers.uniform(-3e7, 3e7)


def read_only(ground: Ground, families: list[str]) -> Iterator[Trial]:
    """A folder for runs that may not be written: a sentence, and nothing is begun."""
    for family in families:
        root = ground.root()
        root.mkdir(mode=0o555)
        ended = child.run(request(family, ground.here, root / "runs"), _nobody)
        told = ended.code == 1 and "RunError" in ended.said and "could be made in" in ended.said
        yield family, None if told else f"it ended with {ended.code}: {ended.said.strip().splitlines()[-1:]}"


def _nobody() -> None:
    """Permissions do not bind root, who becomes somebody else when the run's directory is to be made."""
    from alignkit import journey

    opened = journey.open_run

    def unprivileged(*args: Any, **kwargs: Any) -> Any:
        if os.geteuid() == 0:
            os.seteuid(65534)
        return opened(*args, **kwargs)

    journey.open_run = unprivileged  # type: ignore[attr-defined]


def parent_deleted(ground: Ground, families: list[str]) -> Iterator[Trial]:
    """The model that a run is made from goes away while it trains: the run ends well, or says what is gone; and once
    the model is back, the same command goes on."""
    for family in families:
        if "model={here}/tiny" not in TRAINED[family][1] and any(w.startswith("model=") for w in TRAINED[family][1]):
            continue
        ground.undisturbed(family)
        root, model, aside = ground.root(), ground.here / "tiny", ground.here / "aside"
        pid, said = child.spawn(lambda r=root, f=family: child.train(request(f, ground.here, r)))
        deadline = time.monotonic() + 60
        while not child.steps_done(root) and time.monotonic() < deadline:
            time.sleep(0.002)
        shutil.move(model, aside)
        ended = child.wait(pid, said)
        shutil.move(aside, model)
        known = ended.code == 0 or (ended.code in (1, 2) and "Error: " in ended.said.splitlines()[-1])
        unexpected = ended.code == 1 and not any(one in ended.said for one in ("RunError", "RequestError"))
        lost = None if known and not unexpected else f"it ended with {ended.code}: {ended.said[-300:]}"
        yield family, lost or ground.goes_on(family, root)
