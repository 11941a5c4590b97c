"""A YAML file that somebody else may have written, looked at before anything builds values of it.

What PyYAML and OmegaConf would make of a few lines can be more than any memory holds: an alias stands for all that its
anchor holds, a hundred thousand brackets are as many Python frames, and a number of a million digits takes minutes.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any

from alignkit.errors import Fault, RequestError

LARGEST = 1_000_000
"""Bytes. The longest shipped recipe has four thousand."""
DEEPEST = 40
"""Brackets within brackets; sections of a recipe go five deep."""
MOST_NODES = 100_000
"""Values, each alias counted as all that it stands for."""
LONGEST_NUMBER = 400
"""Characters; the largest double has 309 digits."""

_NUMBER = re.compile(r"[-+.]?[0-9][0-9a-fA-FxXoO_:.eE+-]*")


def read_text(file: Path, where: str) -> str:
    """The file's text. Raises RequestError for what is no regular file, too large for a recipe, or no UTF-8."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe without a writer would wait
        with os.fdopen(descriptor, "rb") as opened:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise _refuse(where, "is no regular file", "Give a YAML file.")
            if status.st_size > LARGEST:
                what = f"has {status.st_size / 1e6:,.1f} MB, and a file of values may have {LARGEST / 1e6:g} MB"
                raise _refuse(where, what, "Give a YAML file.")
            data = opened.read(LARGEST + 1)
    except OSError as error:
        raise _refuse(where, f"cannot be read ({error.strerror})", "Check the path and its permissions.") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refuse(
            where, f"is not UTF-8 (byte {error.start + 1} is 0x{data[error.start]:02x})", "Save it as UTF-8."
        ) from error


def check_size(text: str, where: str) -> None:
    """Raises RequestError for YAML whose values would be too many, too deep, without end, or numbers without end.

    Walks the events of the parser, which hold nothing but their own line. What is no YAML is left for who reads it.
    """
    import yaml

    # The scanner, too, keeps a list of open brackets and walks all of it at every token.
    if (line := _too_deep(text)) is not None:
        raise _deep(where, line)
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []  # anchor and nodes so far, of every open list or mapping
    count = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            size = _size(event, sizes, open_nodes, where)
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append((event.anchor, count))
                if len(open_nodes) > DEEPEST:
                    raise _deep(where, event.start_mark.line + 1 if event.start_mark else 1)
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, before = open_nodes.pop()
                if anchor:
                    sizes[anchor] = count - before
            elif isinstance(event, yaml.ScalarEvent) and event.anchor:
                sizes[event.anchor] = 1
            count += size
            if count > MOST_NODES:
                what = f"holds more than {MOST_NODES:,} values, counting its anchors each time they are used (*name)"
                raise _refuse(_line(where, event), what, "Write the values out, without anchors that repeat anchors.")
    except (yaml.YAMLError, RecursionError):
        return


def _size(event: Any, sizes: dict[str, int], open_nodes: list[tuple[str | None, int]], where: str) -> int:
    """How many values an event stands for."""
    import yaml

    if isinstance(event, yaml.AliasEvent):
        if any(event.anchor == anchor for anchor, _ in open_nodes):
            what = f"the anchor {event.anchor} holds itself (*{event.anchor})"
            raise _refuse(_line(where, event), what, "Write the values out.")
        return sizes.get(event.anchor or "", 1)
    if isinstance(event, yaml.ScalarEvent):
        plain = event.style is None and len(event.value) > LONGEST_NUMBER
        if plain and _NUMBER.fullmatch(event.value):
            what = f"holds a number of {len(event.value):,} characters: {event.value[:12]}…"
            raise _refuse(_line(where, event), what, "Put it in quotes if it is a text.")
        return 1
    return 1 if isinstance(event, yaml.CollectionStartEvent) else 0


def _too_deep(text: str) -> int | None:
    """The line with too many brackets open, told without parsing: quotes do not matter at such numbers."""
    depth = 0
    for match in re.finditer(r"[\[\]{}]", text):
        depth += 1 if match.group() in "[{" else -1 if depth else 0
        if depth > 10 * DEEPEST:
            return text.count("\n", 0, match.start()) + 1
    return None


def _deep(where: str, line: int) -> RequestError:
    return _refuse(
        f"{where} line {line}", f"is nested more than {DEEPEST} deep", "Recipes hold `section: {key: value}`."
    )


def _line(where: str, event: Any) -> str:
    return f"{where} line {event.start_mark.line + 1}"


def _refuse(where: str, what: str, instead: str) -> RequestError:
    return RequestError(Fault(where=where, what=what, instead=instead))
