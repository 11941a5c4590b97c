"""What a recipe's `launch` cannot be: engines that a stage does not run on, and values that nothing would read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from alignkit.config.sections import Launch
from alignkit.errors import Fault

if TYPE_CHECKING:
    from alignkit.config.recipe import StageRecipe

ONE, SEVERAL = ("local",), ("local", "ddp", "fsdp", "deepspeed")
"""Engines of stages that are work for one process, and of those that several can share."""


def launch_faults(recipe: StageRecipe) -> Iterator[Fault]:
    """Every one of them."""
    launch = recipe.launch
    if launch.engine != "local":
        yield from _engine_faults(recipe)
    yield from _unread(launch)


def _engine_faults(recipe: StageRecipe) -> Iterator[Fault]:
    engine = recipe.launch.engine
    if engine not in recipe.engines:
        yield Fault(
            where="launch.engine",
            what=f"the {recipe.stage} stage is work for one process, and {engine} is for several",
            instead="Write launch=local.",
        )
    elif reason := recipe.why_alone():
        yield Fault(where="launch.engine", what=f"{reason} runs in one process", instead="Write launch=local.")


def _unread(launch: Launch) -> Iterator[Fault]:
    """Values that say something of what is not asked for."""
    alone = launch.engine == "local"
    if alone and launch.processes not in ("auto", 1):
        yield _fault("processes", f"{launch.processes} processes, and launch.engine is local: one", "Write launch=ddp.")
    if launch.zero != Launch().zero and launch.engine != "deepspeed":
        what = f"is a setting of deepspeed, and launch.engine is {launch.engine}"
        yield _fault("zero", what, "Write launch=deepspeed.")
    if launch.offload and launch.engine not in ("fsdp", "deepspeed"):
        what = f"launch.engine is {launch.engine}, which keeps everything on the device"
        yield _fault("offload", what, "Write launch=fsdp.")


def _fault(key: str, what: str, instead: str) -> Fault:
    return Fault(where=f"launch.{key}", what=what, instead=instead)
