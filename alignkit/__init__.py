"""alignkit: from a base language model to an aligned one, by recipe.

``alignkit.train("lora", ["model=…", "data=…"])`` does what the command of the same words does and returns what its
``--json`` prints. Importing the package imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

__version__ = "0.1.0"


def train(
    recipe: str,
    overrides: Sequence[str] = (),
    *,
    fresh: bool = False,
    recipes: Sequence[str | Path] = (),
    verbosity: int = 0,
    allow_code: bool = False,
) -> dict[str, Any]:
    """Run a recipe from Python, for notebooks and tests.

    Args:
        recipe: a recipe's name or file, as after `recipe=`.
        overrides: `key=value` texts, as on the command line.
        fresh: train anew beside a run that already answers.
        recipes: directories that come before the shipped recipes.
        verbosity: -1 quiet, 0 the story, 1 details; all of it on stderr. The caller's stdout is left alone.
        allow_code: run the Python functions that the recipe names, as `--allow-code` does.

    Returns:
        ``path`` (RUN/model), ``key``, ``run``, ``reused`` and ``metrics``.

    Raises:
        alignkit.errors.AlignkitError: with a sentence for a person; RequestError lists every fault.
    """
    from alignkit.launch import engine

    directories = [Path(directory) for directory in recipes]
    done = engine.train(recipe, overrides, fresh=fresh, recipes=directories, verbosity=verbosity, allow_code=allow_code)
    return done.as_dict()


def sweep(
    recipe: str,
    overrides: Sequence[str] = (),
    *,
    by: str | None = None,
    keep: Literal["all", "winner"] = "all",
    fresh: bool = False,
    recipes: Sequence[str | Path] = (),
    verbosity: int = 0,
    allow_code: bool = False,
) -> dict[str, Any]:
    """Run a recipe once for each combination of several values, and compare the runs: `alignkit train … --sweep`.

    Args:
        recipe: as for `train`; several names with commas between are swept too.
        overrides: as for `train`; `key=a,b,c` holds several values. Text with a comma of its own is quoted within:
            `data.system="Hello, world"`.
        by: the figure that says which run is the best: `loss`, `max:NAME`, `min:NAME`; None: the stage's headline.
        keep: `winner` removes each run as soon as another beats it.
        fresh, recipes, verbosity, allow_code: as for `train`.

    Returns:
        What `train` returns, of the best run; its ``values``; ``by``, the figure and which way is ``better``; and
        ``points``, one mapping for each run with its ``values``, ``state`` (done, removed, failed), ``figures``,
        ``value`` and ``best``. A point that failed carries its ``error``; the others are compared all the same.

    Raises:
        alignkit.errors.AlignkitError: RequestError lists every fault of every point before the first one runs;
            RunError when no run can be compared.
    """
    from alignkit.sweeps import compare

    directories = [Path(directory) for directory in recipes]
    settings: dict[str, Any] = {
        "fresh": fresh,
        "recipes": directories,
        "verbosity": verbosity,
        "allow_code": allow_code,
    }
    return compare.sweep(recipe, overrides, by=by, keep=keep, **settings).as_dict()
