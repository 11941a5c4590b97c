"""What every `auto` of a recipe became for a run, and that a resumed run has the same."""

from __future__ import annotations

from typing import Any

from alignkit import ranks
from alignkit.config.recipe import GradientRecipe
from alignkit.console import log
from alignkit.errors import RunError
from alignkit.models.loading import Loaded
from alignkit.runs.directory import RunDirectory
from alignkit.training import precision
from alignkit.training.memory import fit, free_bytes

DECIDED = ("dtype", "autocast", "attention", "device", "layout")
"""What a run cannot change on the way."""


def resolved(
    recipe: GradientRecipe,
    run: RunDirectory,
    loaded: Loaded,
    *,
    layout: str,
    longest: int,
    at_once: int | None,
) -> dict[str, Any]:
    """The values, the same in every process; on a resume, what they were at the start.

    ``longest``: tokens that the longest row takes in a batch; ``at_once``: see `memory.fit`.

    Raises RunError where a value cannot be again what it was.
    """
    autocast = precision.autocast(recipe, loaded)
    # Processes share the memory of the machine; a device of its own each has to itself.
    sharing = ranks.local_world() if loaded.device.type == "cpu" else 1
    chosen = fit(
        recipe,
        loaded.model.config,
        longest=longest,
        bytes_per_value=2 if autocast or loaded.dtype.itemsize == 2 else 4,
        free=free_bytes(str(loaded.device)) // sharing,
        at_once=at_once,
        world=ranks.world(),
    )
    mine = {
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "autocast": autocast,
        "attention": loaded.attention,
        "device": loaded.device.type if ranks.world() > 1 else str(loaded.device),
        "layout": layout,
        "micro": chosen.micro,
        "gradient_checkpointing": chosen.gradient_checkpointing,
    }
    now, before = ranks.from_first(lambda: (mine, run.read_mark("resolved")))
    if before is not None:
        # The estimate depends on the memory that happens to be free: keep what the run began with.
        if recipe.batch.micro == "auto":
            # More processes than before may have to take fewer rows each.
            now["micro"] = min(before.get("micro", chosen.micro), -(-recipe.batch.size // ranks.world()))
        if recipe.memory.gradient_checkpointing == "auto":
            now["gradient_checkpointing"] = before.get("gradient_checkpointing", now["gradient_checkpointing"])
        moved = [name for name in DECIDED if not _same(name, before.get(name), now[name])]
        if moved:
            listed = ", ".join(f"{name} was {before.get(name)} and is {now[name]}" for name in moved)
            raise RunError(
                f"{run.path} was begun under other conditions ({listed}), so going on would not give the same "
                "model. Set them as they were (model.dtype, model.attention), or train anew with --fresh."
            )
    run.mark("resolved", now)
    log.detail(", ".join(f"{name} {value}" for name, value in now.items()))
    return now


def _same(name: str, before: Any, now: Any) -> bool:
    """Which of several devices of a kind it is does not matter."""
    if name == "device":
        return str(before).partition(":")[0] == str(now).partition(":")[0]
    return bool(before == now)
