"""`alignkit train`: run a recipe, and print the path of its result, alone, on stdout."""

from __future__ import annotations

from typing import Annotated

import typer

from alignkit.cli.words import Quiet, Recipes, Verbose, Words, take_recipe, verbosity


def train(
    words: Words = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Train anew, beside a run that already answers.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object: path, key, metrics.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    recipes: Recipes = None,
) -> None:
    """Run a recipe and print the path of its result.

    The same command again returns a run that is complete, and resumes one that was cut off.
    """
    name, overrides = take_recipe(words or [], recipes or [])
    from alignkit import journey

    result = journey.train(name, overrides, fresh=fresh, recipes=recipes or [], verbosity=verbosity(quiet, verbose))
    if as_json:
        import json

        print(json.dumps(result.as_dict(), ensure_ascii=False))
    else:
        print(result.path)
