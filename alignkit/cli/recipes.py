"""`alignkit recipes`: what there is, what one comes to, and a file of one's own to start from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from alignkit.cli.words import Recipes
from alignkit.errors import RequestError

app = typer.Typer(
    name="recipes",
    help="List recipes, show one with the origin of each value, copy one to start from.",
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A recipe's name or file (recipe=NAME will do too).")]


@app.callback(invoke_without_command=True)
def recipes(context: typer.Context, recipes: Recipes = None) -> None:
    """List the recipes: name, stage, what each is for, where it stands."""
    if context.invoked_subcommand is not None:
        return
    from alignkit.cli.layout import show_table
    from alignkit.config.listing import list_recipes

    entries = list_recipes(recipes or [])
    show_table(("NAME", "STAGE", "WHAT", "FILE"), [(e.name, e.stage, e.line, e.label) for e in entries], wrap=(2,))


@app.command()
def show(
    context: typer.Context,
    name: Name,
    words: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values that differ.")] = None,
    recipes: Recipes = None,
) -> None:
    """Print the resolved recipe as YAML, each value with the file or the word that set it."""
    from alignkit.config.compose import compose
    from alignkit.config.showing import show as text_of

    composed = compose(name.removeprefix("recipe="), words or [], recipes=_directories(context, recipes))
    sys.stdout.write(text_of(composed))
    unset = [fault for fault in composed.faults if "nothing sets it" not in fault.what]
    if unset:
        raise RequestError(unset)


@app.command()
def copy(
    context: typer.Context,
    name: Name,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Default: ./recipes/NAME-mine.yaml", show_default=False)
    ] = None,
    recipes: Recipes = None,
) -> None:
    """Write a small file that extends a recipe, with the lines one would change as comments."""
    from alignkit.config.starter import write_starter

    written = write_starter(name.removeprefix("recipe="), file, recipes=_directories(context, recipes))
    print(written)
    known = written.parent == Path("recipes")
    typer.echo(f"Run it with: alignkit train recipe={written.stem if known else written}", err=True)


def _directories(context: typer.Context, own: list[Path] | None) -> list[Path]:
    """`--recipes` before or after the sub-command."""
    above = context.parent.params.get("recipes") if context.parent is not None else None
    return [*(own or []), *(above or [])]
