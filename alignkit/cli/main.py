"""`alignkit`: the commands, and what every one of them does with an error.

A command's module is imported when that command is typed; `--help` reads the table below and imports none.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from alignkit import ranks
from alignkit.console.plain import printable
from alignkit.errors import AlignkitError, RequestError

COMMANDS: dict[str, tuple[str, str, str]] = {
    "train": ("alignkit.cli.train", "train", "Run a recipe; print the path of what it made."),
    "check": ("alignkit.cli.check", "check", "Find every fault of a recipe and its data without loading a model."),
    "recipes": ("alignkit.cli.recipes", "app", "List recipes, show one with the origin of each value, copy one."),
    "runs": ("alignkit.cli.runs", "app", "List runs, show one, trace a model back to its base, clean up."),
    "chat": ("alignkit.cli.chat", "chat", "Talk to a model in the terminal, or ask it one thing in a pipe."),
    "data": ("alignkit.cli.data", "app", "Look at data as a model gets it, count it, check it, convert it."),
    "eval": ("alignkit.cli.evaluate", "evaluate", "Score a model on data: loss, perplexity, exact match."),
}
"""Command to module, attribute (a function, or a Typer app of sub-commands) and line of help."""

CONTEXT = {"help_option_names": ["-h", "--help"]}


class Commands(TyperGroup):
    """The group of all commands, each imported when it is asked for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, with its module imported now."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, line = COMMANDS[cmd_name]
        found = getattr(import_module(module), attribute)
        if isinstance(found, typer.Typer):
            command = typer.main.get_command(found)
        else:
            alone = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
            alone.command(cmd_name, context_settings=CONTEXT, short_help=line)(found)
            command = typer.main.get_command(alone)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The table, without importing a command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings=CONTEXT,
    no_args_is_help=True,
)


def _version(asked: bool) -> None:
    if asked:
        from alignkit import __version__

        typer.echo(f"alignkit {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
    verbose: bool = typer.Option(False, "-v", "--verbose", help="Show a traceback when something fails."),
) -> None:
    """Fine-tune, align and merge language models by recipe.

    alignkit train recipe=quickstart
    """


def entry(arguments: Sequence[str] | None = None) -> None:
    """What the shell calls. Ends the process with the exit code of the outcome."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_closed(_run(words)))


def _run(words: Sequence[str]) -> int:
    """Run a command line; every error becomes sentences on stderr and an exit code."""
    try:
        outcome = typer.main.get_command(app).main(args=list(words), prog_name="alignkit", standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except KeyboardInterrupt:
        return 130
    except typer.Abort:
        return 1
    except BrokenPipeError:
        _drop_stdout()
        return 1
    except ranks.Left as error:  # a process of several: the one that failed says why
        return error.exit_code
    except AlignkitError as error:
        _tell(_sentences(error), error, words)
        return error.exit_code
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if isinstance(code, int) and hasattr(error, "format_message"):  # Typer's own: an unknown option or command
            _tell(_usage(error), None, words)
            return code
        told = f"{type(error).__name__}: {error}".rstrip(": ")
        hint = "" if _wants_traceback(words) else "\nRun it again with -v to see the traceback."
        _tell(f"Something failed that alignkit did not expect. {told}{hint}", error, words)
        return 1


def _sentences(error: AlignkitError) -> str:
    """The error's text; several faults are counted and stand one to a line."""
    if isinstance(error, RequestError) and len(error.faults) > 1:
        return "\n".join([f"{len(error.faults)} faults:", *(f"- {fault}" for fault in error.faults)])
    return str(error)


def _usage(error: Any) -> str:
    """Typer's error as a sentence, with the command whose help explains it."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "alignkit"
    message = error.format_message().replace("?.", "?")
    if not message or type(error).__name__ == "NoArgsIsHelpError":
        return context.get_help() if context is not None else "Try alignkit --help."
    end = "" if message.endswith("?") else "."
    return f"{message.rstrip('.')}{end} `{path} --help` says what there is."


def _tell(text: str, error: BaseException | None, words: Sequence[str]) -> None:
    if error is not None and _wants_traceback(words):
        import traceback

        text = "".join(traceback.format_exception(error)) + text
    if not ranks.is_first():
        text = f"process {ranks.rank()}: {text}"
    with suppress(OSError):
        print(printable(text), file=sys.stderr, flush=True)


def _wants_traceback(words: Sequence[str]) -> bool:
    return any(word in ("-v", "--verbose", "-vq", "-qv") for word in words)


def _closed(code: int) -> int:
    """Flush stdout; a reader that went away (`… | head -1`) is no error of ours."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()
    return code


def _drop_stdout() -> None:
    """Point descriptor 1 at nothing, so that the interpreter's last flush is quiet."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    entry()
