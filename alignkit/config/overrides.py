"""`key=value` words of the command line: taken apart, and the text read as what the key's type wants.

Text for a key that takes text is taken as it stands (paths, regular expressions, hub names: any character), unless it
is wholly in quotes; text for any other key is read by the grammar of Hydra's overrides: numbers, true, null, [a,b],
{key: value}. No function of that grammar is known here, and no sweep.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from alignkit.config.schema import Leaf
from alignkit.config.values import holds_list, takes
from alignkit.errors import Fault

ORIGIN = "command line"
_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[^.\s]+)*")


@dataclass(frozen=True)
class Override:
    """One `key=text`."""

    key: str
    text: str
    word: str
    """As typed."""


class UnreadableError(Exception):
    """The text is no value; the message says how to write it."""


def split(words: Sequence[str]) -> tuple[list[Override], list[Fault]]:
    """Take words apart into overrides and faults."""
    overrides: list[Override] = []
    faults: list[Fault] = []
    for word in words:
        one = _split(word)
        (faults if isinstance(one, Fault) else overrides).append(one)  # type: ignore[arg-type]
    return overrides, faults


def _split(word: str) -> Override | Fault:
    key, equals, text = word.partition("=")
    where = f"`{word}` (from the {ORIGIN})"
    plain = key.lstrip("+~")
    if plain != key and not (plain.startswith("trl.") and "~" not in key):
        how = f"Write {plain}={text or 'VALUE'}." if "~" not in key else f"To take a value away, write {plain}=null."
        return Fault(where=where, what=f"a key has no {key[0]} before it", instead=how)
    if not equals and word.endswith((".yaml", ".yml")):
        return Fault(where=where, what="has no key", instead=f"A recipe is given as recipe={word}.")
    if not equals:
        return Fault(where=where, what="is not of the form key=value", instead=f"Write {plain.strip() or 'key'}=VALUE.")
    if not _KEY.fullmatch(plain):
        return Fault(
            where=where, what=f"`{plain}` is no key", instead="Keys are words joined by dots: section.key=VALUE."
        )
    return Override(plain, text, word)


def read_text(text: str, annotation: Any, key: str) -> Any:
    """`text` as the value of a key with this annotation; Any for a key of the user's own. Raises UnreadableError."""
    if annotation is not Any and takes(annotation, str):
        return _read_string(text, annotation, key)
    listed = annotation is Any or holds_list(annotation)
    try:
        return _grammar(text, key, listed=listed)
    except UnreadableError:
        if listed or _is_bracketed(text) or _is_sweep(text):
            raise
        return text


def annotation_of(leaf: Leaf | None, key: str) -> Any:
    """The annotation that the text of `key` is read with: the leaf's, or that of a free mapping's values."""
    from typing import get_args

    if leaf is None:
        return Any
    if leaf.key == key:
        return leaf.annotation
    return (get_args(leaf.annotation) or (str, Any))[1]


def _read_string(text: str, annotation: Any, key: str) -> Any:
    quoted = re.fullmatch(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", text, re.DOTALL)
    if quoted:
        return _grammar(text, key)
    if text.lower() == "null" and takes(annotation, type(None)):
        return None
    if holds_list(annotation):
        try:
            value = _grammar(text, key)
        except UnreadableError as problem:
            if _is_sweep(text) or (_is_bracketed(text) and "," in text):
                raise problem from None
            return text
        return value if isinstance(value, list) else text
    return text


def _is_bracketed(text: str) -> bool:
    return text.lstrip()[:1] in ("[", "{") if text.strip() else False


def _is_sweep(text: str) -> bool:
    try:
        return bool(_parser().parse_override(f"x={text}").is_sweep_override())
    except Exception:
        return False


@lru_cache(maxsize=1)
def _parser() -> Any:
    from hydra._internal.grammar.functions import Functions
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser(Functions())


def _grammar(text: str, key: str, *, listed: bool = True) -> Any:
    """Text by the grammar of overrides, without its functions and sweeps. `listed`: the key takes a list."""
    try:
        parsed = _parser().parse_override(f"x={text}")
        swept = parsed.is_sweep_override()
        value = None if swept else parsed.value()
    except Exception as error:  # the grammar raises errors of antlr, of Hydra and ValueError alike
        raise UnreadableError(
            f"`{text}` cannot be read; text with special characters is written in quotes within quotes: "
            f"{_quoted(key, text)}"
        ) from error
    if swept:
        several = f"several values are a list: '{key}=[{text}]', or one run each with --sweep"
        raise UnreadableError(f"`{text}` holds commas; {several if listed else 'for one run of each add --sweep'}")
    return _plain(value)


def _quoted(key: str, text: str) -> str:
    """The word as typed in a shell, the text quoted for the grammar."""
    from hydra.core.override_parser.types import Quote, QuotedString

    inner = QuotedString(text, Quote.double).with_quotes().replace("'", "'\\''")
    return f"'{key}={inner}'"


def _plain(value: Any) -> Any:
    """Quoted strings to str, keys to str, all the way down."""
    from hydra.core.override_parser.types import QuotedString

    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
