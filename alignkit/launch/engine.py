"""Where a request runs: in this process, or in several that this one starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alignkit import journey, ranks
from alignkit.config.compose import compose
from alignkit.console import log


def train(
    name: str,
    overrides: Sequence[str] = (),
    *,
    fresh: bool = False,
    recipes: Sequence[Path] = (),
    verbosity: int = log.NORMAL,
    allow_code: bool = False,
) -> journey.Result:
    """Run a recipe on the engine that it asks for; see `journey.train`."""
    if ranks.world() > 1:  # a launcher has started this process: it is one of several already
        return journey.train(name, overrides, fresh=fresh, recipes=recipes, verbosity=verbosity, allow_code=allow_code)
    composed = compose(name, overrides, recipes=recipes)
    if not composed.faults and composed.recipe.launch.engine != "local":
        from alignkit.launch import processes

        return processes.train(composed, fresh=fresh, verbosity=verbosity, allow_code=allow_code)
    return journey.train(name, fresh=fresh, verbosity=verbosity, allow_code=allow_code, composed=composed)
