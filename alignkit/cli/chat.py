"""`alignkit chat`: talk to a model in the terminal, or ask it one thing in a pipe."""

from __future__ import annotations

import math
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from alignkit.cli.words import Verbose, verbosity
from alignkit.errors import AlignkitError, Fault, RequestError

if TYPE_CHECKING:
    from alignkit.evaluation.conversation import Conversation

HELP = """\
/system TEXT   set the system message and start anew; without TEXT: take it away
/reset         forget the conversation
/exit          leave (Ctrl-D does too)
Ctrl-C stops an answer. A line that begins with a blank is never a command."""


def chat(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A run, a directory, a GGUF file, a hub name, or a name of recipes/model/."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="How it is loaded: model.dtype=fp32, quantization=nf4, …"),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System message.")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer in tokens.")] = 512,
    temperature: Annotated[
        float, typer.Option("--temperature", help="0: the likeliest answer, the same each time. 0.7: more variety.")
    ] = 0.0,
    top_p: Annotated[
        float | None, typer.Option("--top-p", help="Draw from the likeliest tokens that make up this share.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Draw the same answers each time.")] = None,
    verbose: Verbose = False,
) -> None:
    """Talk to a model. When stdin is no terminal, its text is one prompt and the answer goes to stdout."""
    from alignkit.console import log
    from alignkit.console.libraries import kept_quiet

    log.set_verbosity(verbosity(False, verbose))
    faults = _sampling_faults(temperature, top_p, seed)
    if faults:
        raise RequestError(faults)
    prompt = None if sys.stdin.isatty() else _piped_prompt()
    with kept_quiet():
        conversation = _load(
            model,
            overrides or [],
            system=system,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=1.0 if top_p is None else top_p,
            seed=seed,
        )
    if prompt is not None:
        _answer(conversation, prompt)
    else:
        _talk(conversation)


def _sampling_faults(temperature: float, top_p: float | None, seed: int | None) -> list[Fault]:
    faults = []
    if not (math.isfinite(temperature) and temperature >= 0):
        faults.append(
            Fault(where="--temperature", what=f"{temperature:g} is no temperature", instead="Write 0 or more.")
        )
    if top_p is not None and not 0 < top_p <= 1:
        faults.append(Fault(where="--top-p", what=f"{top_p:g} is no share", instead="Write more than 0 and at most 1."))
    if temperature == 0:
        for option, value in (("--top-p", top_p), ("--seed", seed)):
            if value is not None:
                what = "does nothing at temperature 0, where the likeliest token is always taken"
                faults.append(Fault(where=option, what=what, instead="Add --temperature 0.7."))
    return faults


def _piped_prompt() -> str:
    try:
        prompt = sys.stdin.buffer.read().decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise RequestError(Fault(where="stdin", what=f"the prompt is no UTF-8 text ({error.reason})")) from error
    if not prompt.strip():
        raise RequestError(
            Fault(
                where="stdin", what="the prompt is empty", instead="Write echo 'your question' | alignkit chat MODEL."
            )
        )
    return prompt


def _load(
    model: str,
    overrides: list[str],
    *,
    system: str | None,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int | None,
) -> Conversation:
    """Everything that may print on the way prints to stderr: stdout is for the answer."""
    from alignkit.config.compose import compose
    from alignkit.config.search import shipped_recipes
    from alignkit.console import log
    from alignkit.console.streams import stdout_to_stderr
    from alignkit.evaluation.recipe import ChatRecipe
    from alignkit.models.locating import locate

    file = shipped_recipes() / "command" / "chat.yaml"
    recipe = compose(str(file), [f"model={model}", *overrides], schema=ChatRecipe).checked().recipe
    assert isinstance(recipe, ChatRecipe)
    source = locate(recipe.model)
    tell = log.say if log.is_terminal() else log.detail
    tell(f"loading {source.said.removeprefix('model: ')} …")
    with stdout_to_stderr():
        from alignkit.evaluation.conversation import Conversation
        from alignkit.models.loading import load

        loaded = load(recipe.model, recipe.quantization, source=source)
        return Conversation(
            loaded.model,
            loaded.tokenizer,
            system=system,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
        )


def _answer(conversation: Conversation, text: str) -> None:
    """Print the answer to ``text`` as it comes. Ctrl-C leaves the conversation whole."""
    from alignkit.evaluation.report import readable

    screen = sys.stdout.isatty()
    stream = conversation.ask(text)
    try:
        for piece in stream:
            sys.stdout.write(readable(piece) if screen else piece)
            sys.stdout.flush()
    except KeyboardInterrupt:
        typer.echo()
        raise
    finally:
        stream.close()
    typer.echo()
    if conversation.cut_off:
        _note(f"(stopped after {conversation.max_new_tokens} tokens; --max-new-tokens allows more)")


def _talk(conversation: Conversation) -> None:
    with suppress(ImportError):
        import readline  # noqa: F401  makes input() editable, with a history
    if not conversation.templated:
        _note("The model has no chat template: it continues each text that you write, without turns.")
    chosen = "greedy (--temperature 0)" if not conversation.temperature else f"temperature {conversation.temperature:g}"
    _note(f"{chosen}; /help lists the commands")
    while True:
        try:
            line = _ask_person()
        except EOFError:
            _note("")
            return
        except KeyboardInterrupt:
            _note("\n(Ctrl-D or /exit leaves)")
            continue
        if line.startswith("/"):
            if not _command(conversation, line):
                return
        elif line.strip():
            try:
                _answer(conversation, line)
            except KeyboardInterrupt:
                _note("(stopped)")
            except AlignkitError as error:
                _note(str(error))


def _ask_person() -> str:
    if sys.stdout.isatty():
        return input("> ")
    sys.stderr.write("> ")  # the answers go elsewhere: the marker must not
    sys.stderr.flush()
    return input()


def _command(conversation: Conversation, line: str) -> bool:
    """Carry out one command; False when it says to leave."""
    name, _, rest = line[1:].partition(" ")
    if name in ("exit", "quit"):
        return False
    if name == "reset":
        conversation.reset()
        _note("(started anew)")
    elif name == "system":
        conversation.system = rest.strip() or None
        conversation.reset()
        _note(f"(system message {'set' if conversation.system else 'taken away'}, started anew)")
    elif name == "help":
        _note(HELP)
    else:
        _note(f"There is no command /{name}. {HELP}")
    return True


def _note(text: str) -> None:
    """A word to the person, which is no part of the answer."""
    typer.echo(text, err=True)
