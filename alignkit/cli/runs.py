"""`alignkit runs`: what has been made, from what, and what may go."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from alignkit.runs.listing import RunInfo

app = typer.Typer(
    name="runs",
    help="List runs, show one, trace a model back to its base, and clean up.",
    rich_markup_mode=None,
    add_completion=False,
)

DEFAULT_ROOT = "runs"

RootOption = Annotated[str | None, typer.Option("--root", metavar="DIR", help="Directory of the runs. [default: runs]")]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A path, a run's name, or a start of it that only it has.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.callback(invoke_without_command=True)
def runs(context: typer.Context, root: RootOption = None) -> None:
    """List the runs: name, stage, state, parents, headline metric, age and size; newest first."""
    if context.invoked_subcommand is not None:
        return
    from alignkit.cli.layout import show_table
    from alignkit.cli.runs_text import HEADER, RIGHT, WRAP, table_row
    from alignkit.runs.listing import find_runs

    place = root or DEFAULT_ROOT
    found = find_runs(place)
    if not found:
        typer.echo(f"No runs in {place}. `alignkit train recipe=quickstart` makes the first one.", err=True)
        return
    show_table(HEADER, [table_row(info) for info in found], right=RIGHT, wrap=WRAP)


@app.command()
def show(
    context: typer.Context,
    run: RunArgument,
    verify: Annotated[bool, typer.Option("--verify", help="Read every file again and compare its SHA-256.")] = False,
    root: RootOption = None,
) -> None:
    """Say everything about one run.

    State, parents, metrics before and after, what each `auto` became, files, versions, and the command to get it again.
    """
    from alignkit.cli.runs_text import story
    from alignkit.runs.manifest import read_manifest
    from alignkit.runs.manifest import verify as check

    info = _find(context, root, run)
    if verify:
        problems = check(info.path)
        for problem in problems:
            typer.echo(f"{info.name}: {problem}")
        if problems:
            raise typer.Exit(1)
        typer.echo(f"{info.name}: all {len(read_manifest(info.path).files)} files are as the run wrote them.")
        return
    typer.echo("\n".join(story(info)))


@app.command()
def lineage(
    context: typer.Context,
    path: Annotated[str, typer.Argument(metavar="PATH", help="A run, RUN/model, or a model directory or file.")],
    root: RootOption = None,
) -> None:
    """Print the tree from a model back to its base."""
    from alignkit.cli.runs_text import show_tree
    from alignkit.runs.lineage import lineage as trace

    place = Path(path).expanduser()
    show_tree(trace(place if place.exists() or "/" in path else _find(context, root, path).path))


@app.command()
def rm(
    context: typer.Context,
    run: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="What to remove: paths, names, or starts of names.")
    ],
    yes: YesOption = False,
    root: RootOption = None,
) -> None:
    """Remove runs, but no parent of one that stands.

    Refused as well while a process works on one of them. Parent and child may go together.
    """
    from alignkit.cli.layout import size
    from alignkit.runs.removal import check_removal, remove

    going = list({info.path: info for info in (_find(context, root, said) for said in run)}.values())
    check_removal([info.run for info in going])
    for info in going:
        typer.echo(f"{info.name}  {info.state}  {size(info.size)}", err=True)
    # Named one by one, so a script needs no --yes; a person who typed a short prefix gets a second look.
    if not yes and sys.stdin.isatty():
        typer.confirm("Remove?", abort=True, err=True)
    typer.echo(f"{size(remove([info.run for info in going]))} freed.", err=True)


@app.command()
def prune(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    yes: YesOption = False,
    root: RootOption = None,
) -> None:
    """Remove old checkpoints and dead runs.

    That is: checkpoints of complete runs, and runs that ended with nothing to go on from.
    """
    from alignkit.cli.layout import clean, show_table, size
    from alignkit.errors import Fault, RequestError
    from alignkit.runs.removal import prune as carry_out
    from alignkit.runs.removal import prune_plan

    place = Path(_root(context, root))
    plan = prune_plan(place)
    if not plan:
        typer.echo("Nothing to prune.", err=True)
        return
    base = place.expanduser().resolve()
    rows = [[clean(item.path.relative_to(base)), item.why, size(item.size)] for item in plan]
    rows.append(["all", "", size(sum(item.size for item in plan))])
    show_table(["what", "why", "frees"], rows, right=[2], wrap=[0, 1])
    if dry_run:
        return
    if not yes:
        if not sys.stdin.isatty():
            raise RequestError(Fault(where="alignkit runs prune", what="nobody is there to ask", instead="Add --yes."))
        typer.confirm("Remove all of this?", abort=True, err=True)
    typer.echo(f"{size(carry_out(plan))} freed.", err=True)


def _root(context: typer.Context, root: str | None) -> str:
    """--root after the command, or before it."""
    above = context.parent.params.get("root") if context.parent is not None else None
    return root or above or DEFAULT_ROOT


def _find(context: typer.Context, root: str | None, said: str) -> RunInfo:
    from alignkit.runs.listing import find_run

    return find_run(_root(context, root), said)
