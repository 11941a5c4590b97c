"""`alignkit data`: look at data before training on it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from alignkit.cli.data_request import composed, heading, quietly, tokenizer_of, write_file
from alignkit.cli.words import Quiet, Recipes, Verbose, verbosity
from alignkit.console.plain import printable
from alignkit.errors import Fault, RequestError

app = typer.Typer(
    name="data",
    help="Look at data before training on it: rows as tokens, a table of counts, faults; write a clean file.",
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
)

DataArgument = Annotated[
    str,
    typer.Argument(metavar="DATA", help="A file, a directory, a glob, a hub name, a name of recipes/data/, or -."),
]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="model=… KEY=VALUE",
        help="Whose tokenizer and template; how rows are read: data.max_length=512, data.columns.prompt=title, …",
    ),
]


@app.command()
def preview(
    data: DataArgument,
    overrides: Words = None,
    n: Annotated[int | None, typer.Option("-n", min=1, help="How many rows.  [default: 3]")] = None,
    row: Annotated[int | None, typer.Option("--row", min=1, metavar="N", help="Begin at the N-th row.")] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Draw rows at random, the same each time.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Leave nothing out: long turns, prompts said above.")] = False,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page instead.")] = None,
    verbose: Verbose = False,
    recipes: Recipes = None,
) -> None:
    """Show rows as tokens, and which are trained.

    With model=… rows are rendered with its chat template and counted in its tokens; without, they are shown as text.
    """
    from alignkit.console import log
    from alignkit.data.eyes.recipe import PreviewRecipe

    log.set_verbosity(verbosity(False, verbose))
    if row is not None and seed is not None:
        raise RequestError(Fault(where="--row, --seed", what="are two ways to choose", instead="Write one of them."))
    words = [*(overrides or []), *([f"n={n}"] if n is not None else [])]
    if row is not None and not any(word.startswith("n=") for word in words):
        words.append("n=1")
    recipe = composed(data, words, recipes or [], PreviewRecipe)
    with quietly():
        from alignkit.data.eyes.preview import preview as look

        found = look(recipe.data, tokenizer_of(recipe), n=recipe.n, row=row, seed=seed, wants=recipe.kind)
    said = heading(data, recipe)
    if html is not None:
        from alignkit.data.eyes.page import page

        write_file(html, page(said, found.said, found.looks, tokens=recipe.model is not None))
        typer.echo(html)
        return
    _show_looks(said, found, tokens=recipe.model is not None, full=full)


def _show_looks(said: str, found: Any, *, tokens: bool, full: bool) -> None:
    from alignkit.data.eyes.screen import Style, legend, lines, print_look

    console = _console()
    style = Style(colour=console is not None, tokens=tokens, full=full)
    if console is None:
        print(printable("\n".join([said, *found.said, "".join(text for text, _ in legend(style))])))
        for look in found.looks:
            print("\n" + "\n".join(lines(look, style)))
        return
    from rich.text import Text

    console.print(Text(said, style="bold"))
    for line in found.said:
        console.print(Text(line))
    console.print(Text.assemble(*legend(style)))
    for look in found.looks:
        console.print()
        print_look(look, style, console)


def _console() -> Any:
    """A rich console on stdout, or None where nothing is coloured: in a pipe, or with NO_COLOR."""
    if not sys.stdout.isatty():
        return None
    from alignkit.console.tables import plain_console

    console = plain_console()
    return console if console.color_system is not None and not console.no_color else None


@app.command()
def stats(
    data: DataArgument,
    overrides: Words = None,
    near: Annotated[
        bool, typer.Option("--near", help="Count rows that nearly say the same too (data.dedup_threshold).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each source.")] = False,
    verbose: Verbose = False,
    recipes: Recipes = None,
) -> None:
    """Count rows, lengths, roles and duplicates.

    With model=… lengths are in its tokens, and what is trained and what is too long is counted; without, in characters.
    """
    from alignkit.console import log
    from alignkit.data.eyes.recipe import LookRecipe

    log.set_verbosity(verbosity(False, verbose))
    recipe = composed(data, overrides or [], recipes or [], LookRecipe)
    with quietly():
        from alignkit.data.eyes.stats import gather

        likeness = recipe.data.dedup_threshold if near else None
        found = gather(recipe.data, tokenizer_of(recipe), wants=recipe.kind, near=likeness)
    if as_json:
        for one in found:
            print(json.dumps(one.as_dict(), ensure_ascii=False))
        return
    print(_bold(printable(heading(data, recipe))))
    for one in found:
        _show_stats(one)


def _show_stats(found: Any) -> None:
    from alignkit.cli.layout import clean, columns
    from alignkit.data.eyes.tables import tables

    print(printable(f"{found.name}: {found.said or 'no row could be read'}"))
    for note in found.notes:
        print(printable(f"  {note}"))
    for table in tables(found):
        width = max(map(len, table.rows))
        rows = [[clean(cell) for cell in row] + [""] * (width - len(row)) for row in table.rows]
        print(f"\n{_bold(printable(table.heading))}")
        print(printable("\n".join(columns(rows, right=table.right, indent="  "))))
        print(printable("".join(f"  {note}\n" for note in table.notes)), end="")


@app.command()
def check(
    data: DataArgument,
    overrides: Words = None,
    every: Annotated[bool, typer.Option("--all", help="List every fault, not the first 20 of each kind.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each source.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    recipes: Recipes = None,
) -> None:
    """Find every fault of every row.

    Exit code 0: nothing is wrong; 2: something is.

    With model=… rows are rendered and tokenised too: what its template refuses and what its mask gets wrong is found.
    """
    from alignkit.console import log
    from alignkit.data.eyes.recipe import LookRecipe

    log.set_verbosity(verbosity(quiet, verbose))
    recipe = composed(data, overrides or [], recipes or [], LookRecipe)
    with quietly():
        from alignkit.data.eyes.examine import KEPT, examine

        found = examine(recipe.data, tokenizer_of(recipe), wants=recipe.kind, keep=None if every else KEPT)
    for one in found:
        if as_json:
            print(json.dumps(one.as_dict(), ensure_ascii=False))
        elif not quiet:
            print(printable("\n".join(one.lines(recipe.data.max_length, recipe.data.overlength))))
    if not all(one.clean for one in found):
        raise typer.Exit(2)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="As DATA of the other commands.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The file to write: .jsonl, .jsonl.gz or .parquet.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="format=… KEY=VALUE",
            help="format: messages, sharegpt, alpaca, prompt-completion, preference, feedback or text. "
            "data.on_error=skip leaves out rows that cannot be used.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    verbose: Verbose = False,
    recipes: Recipes = None,
) -> None:
    """Write rows to a clean file of one format.

    Prints the path of the file.

    Rows that cannot be used stop it, or with data.on_error=skip go to DST.skipped.jsonl.
    """
    from alignkit.console import log
    from alignkit.data.eyes.recipe import ConvertRecipe

    log.set_verbosity(verbosity(False, verbose))
    recipe = composed(source, overrides or [], recipes or [], ConvertRecipe)
    with quietly():
        from alignkit.data.eyes.rewrite import rewrite

        told = rewrite(recipe.data, target, recipe.format, wants=recipe.kind, force=force)
    for line in told:
        log.say(line)
    typer.echo(target)


@app.command()
def formats(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List the formats that are recognised.

    The columns that make each, and what it is good for; the first that fits is taken.
    """
    from alignkit.cli.layout import show_table
    from alignkit.data.formats.table import formats_table

    rows = [list(row) for row in formats_table()]
    names = ["format", "kind", "columns", "what"]
    if as_json:
        print(json.dumps([dict(zip(names, row, strict=True)) for row in rows], ensure_ascii=False))
        return
    show_table(names, rows, wrap=[2, 3])


def _bold(text: str) -> str:
    """A heading: bold on a terminal that has colour."""
    return f"\x1b[1m{text}\x1b[0m" if _console() is not None else text
