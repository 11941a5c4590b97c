"""Experiment trackers beside metrics.jsonl: what they write locally lies in the run's directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from alignkit.runs.directory import RunDirectory


@contextmanager
def inside(run: RunDirectory) -> Iterator[None]:
    """Point the trackers' own environment variables at the run while it trains; what a person set stands."""
    wanted = {"TENSORBOARD_LOGGING_DIR": run.path / "tensorboard", "WANDB_DIR": run.path}
    mine = {name: str(place) for name, place in wanted.items() if name not in os.environ}
    os.environ.update(mine)
    try:
        yield
    finally:
        for name in mine:
            os.environ.pop(name, None)
