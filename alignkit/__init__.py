"""alignkit: from a base language model to an aligned one, by recipe.

``alignkit.train("lora", ["model=…", "data=…"])`` does what the command of the same words does and returns what its
``--json`` prints. Importing the package imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__version__ = "0.1.0"


def train(
    recipe: str,
    overrides: Sequence[str] = (),
    *,
    fresh: bool = False,
    recipes: Sequence[str | Path] = (),
    verbosity: int = 0,
) -> dict[str, Any]:
    """Run a recipe from Python, for notebooks and tests.

    Args:
        recipe: a recipe's name or file, as after `recipe=`.
        overrides: `key=value` texts, as on the command line.
        fresh: train anew beside a run that already answers.
        recipes: directories that come before the shipped recipes.
        verbosity: -1 quiet, 0 the story, 1 details; all of it on stderr. The caller's stdout is left alone.

    Returns:
        ``path`` (RUN/model), ``key``, ``run``, ``reused`` and ``metrics``.

    Raises:
        alignkit.errors.AlignkitError: with a sentence for a person; RequestError lists every fault.
    """
    from alignkit import journey

    directories = [Path(directory) for directory in recipes]
    return journey.train(recipe, overrides, fresh=fresh, recipes=directories, verbosity=verbosity).as_dict()
