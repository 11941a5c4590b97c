"""The chat templates that come with alignkit, one Jinja file each, and a person's own. Imports nothing heavy.

A file begins with a comment: a sentence about the format, and a line `tokens:` with the special tokens that the
template writes, apart from the tokenizer's bos and eos. A person's own file may say so too; without that line they are
found by rendering (see install.py). The comment is not installed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from alignkit.errors import Fault, RequestError

KEY = "data.template"
SUFFIXES = (".jinja", ".jinja2", ".j2")
_HEADER = re.compile(r"\A\s*\{#-?(?P<words>.*?)-?#\}\s*", re.DOTALL)
_TOKENS = re.compile(r"^tokens:(?P<tokens>.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Template:
    """A chat template as it is to be installed. ``tokens``: what it writes, or None when its file does not say."""

    name: str
    text: str
    tokens: tuple[str, ...] | None
    shipped: bool


def names() -> list[str]:
    """The names of the templates that come with alignkit."""
    return sorted(path.stem for path in _folder().glob("*.jinja"))


def find(name: str) -> Template:
    """The template of that name, or in that Jinja file. Raises RequestError when there is none or it is no Jinja."""
    own = _file(name)
    if own is None:
        shipped = names()
        if name not in shipped:
            close = get_close_matches(name.lower(), shipped, n=2, cutoff=0.5)
            hint = f"Did you mean {' or '.join(close)}? " if close else ""
            raise RequestError(
                Fault(
                    where=KEY,
                    what=f"there is no template {name!r}",
                    instead=f"{hint}Write {', '.join(shipped)}, or the path of a Jinja file.",
                )
            )
        return _parse(name, (_folder() / f"{name}.jinja").read_text(encoding="utf-8"), shipped=True)
    try:
        text = own.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise RequestError(
            Fault(where=KEY, what=f"{own} cannot be read: {reason}", instead="Give a Jinja file, as UTF-8.")
        ) from error
    if fault := _syntax_fault(own, text):
        raise RequestError(fault)
    return _parse(str(own), text, shipped=False)


def template_fault(name: str) -> Fault | None:
    """What is wrong with a `data.template`; None when it can be installed."""
    try:
        find(name)
    except RequestError as error:
        return error.faults[0]
    return None


def template_text(name: str) -> str:
    """What decides the rows of a run that names this template, for its key: the text, wherever it lies."""
    return find(name).text


def _folder() -> Path:
    return Path(__file__).parent


def _file(name: str) -> Path | None:
    """The path that `name` is, when it is written like one."""
    written_so = name.lower().endswith(SUFFIXES) or "/" in name or name.startswith("~")
    return Path(name).expanduser() if written_so else None


def _parse(name: str, text: str, *, shipped: bool) -> Template:
    tokens: tuple[str, ...] | None = None
    if header := _HEADER.match(text):
        if found := _TOKENS.search(header["words"]):
            tokens = tuple(found["tokens"].split())
        text = text[header.end() :]
    return Template(name, text.rstrip("\n"), tokens, shipped)


def _syntax_fault(file: Path, text: str) -> Fault | None:
    from jinja2 import Environment, TemplateSyntaxError
    from jinja2.ext import Extension

    class Generation(Extension):
        """The block that transformers adds to Jinja for its masks; only its syntax matters here."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser):  # type: ignore[no-untyped-def]
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    if not text.strip():
        return Fault(where=KEY, what=f"{file} is empty", instead="Give a chat template in Jinja.")
    try:
        Environment(extensions=["jinja2.ext.loopcontrols", Generation]).parse(text)
    except TemplateSyntaxError as error:
        return Fault(where=f"{file} line {error.lineno}", what=f"is no Jinja: {error.message}", instead="Correct it.")
    return None
