"""`alignkit train`: run a recipe, and print the path of its result, alone, on stdout."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from alignkit import ranks
from alignkit.cli.words import (
    AllowCode,
    By,
    Quiet,
    Recipes,
    Sweep,
    Verbose,
    Words,
    only_with_sweep,
    take_recipe,
    verbosity,
)


def train(
    words: Words = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Train anew, beside a run that already answers.")] = False,
    sweep: Sweep = False,
    by: By = None,
    keep: Annotated[
        Literal["all", "winner"] | None,
        typer.Option("--keep", help="Runs of --sweep that stay: winner removes those that lost. [default: all]"),
    ] = None,
    allow_code: AllowCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object: path, key, metrics.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    recipes: Recipes = None,
) -> None:
    """Run a recipe and print the path of its result.

    The same command again returns a run that is complete, and resumes one that was cut off.
    """
    name, overrides = take_recipe(words or [], recipes or [])
    settings: dict[str, Any] = {
        "fresh": fresh,
        "recipes": recipes or [],
        "verbosity": verbosity(quiet, verbose),
        "allow_code": allow_code,
    }
    if sweep:
        _compare(name, overrides, as_json, by=by, keep=keep or "all", **settings)
        return
    only_with_sweep({"--by": by, "--keep": keep})
    from alignkit.launch.engine import train as launched

    result = launched(name, overrides, **settings)
    if not ranks.is_first():
        return
    if as_json:
        _print_json(result.as_dict())
    else:
        print(result.path)


def _compare(name: str, overrides: list[str], as_json: bool, **settings: Any) -> None:
    """Run a sweep and print its winner. A point that failed makes the exit code 1, after the answer is printed."""
    from alignkit.errors import RunError
    from alignkit.sweeps.compare import sweep

    comparison = sweep(name, overrides, **settings)
    if as_json:
        _print_json(comparison.as_dict())
    elif comparison.winner:
        print(comparison.winner.path)
    if comparison.failed:
        raise RunError(comparison.failure())


def _print_json(answer: dict[str, Any]) -> None:
    import json

    print(json.dumps(answer, ensure_ascii=False))
