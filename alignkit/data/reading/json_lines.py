"""JSONL: one JSON object a line. The C scanner reads a sound line; what it refuses is looked at again, slowly, to say
where the fault stands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from alignkit.data.reading.faults import RAW, foreign, near, not_utf8, nul, unreadable
from alignkit.data.rows import Row, Unreadable

BOM = b"\xef\xbb\xbf"
MEND = "Mend the line or remove it."
LONGEST_LINE = 256_000_000
"""Bytes. A longer line is no row: it is passed over without being held in memory."""


class _Constant(ValueError):
    """NaN, Infinity or -Infinity stands where a value is expected."""


class _Twice(ValueError):
    """A key stands twice in one object; the JSON readers of this world disagree on which one counts."""


def _refuse_constant(name: str) -> NoReturn:
    raise _Constant(name)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _Twice(next(key for key in keys if keys.count(key) > 1))
    return values


DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_once)
_JSON_KINDS = {bool: "true/false", str: "text", list: "a list"}
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"(\s*:)?|[{}]|NaN|-?Infinity', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_ESCAPES = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.")
"""Escapes of a JSON string, a pair of surrogates as one."""


def jsonl_rows(data: bytes, name: str, line: int = 1) -> Iterator[Row | Unreadable]:
    """The rows of whole lines, the first of which is number ``line`` of the file. Blank lines, a BOM, CRLF pass."""
    if line == 1:
        if (fault := foreign(name, data[:8])) is not None:
            yield fault
            return
        data = data.removeprefix(BOM)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        for number, piece in enumerate(data.split(b"\n"), line):
            try:
                yield from _rows(piece.decode("utf-8"), name, number)
            except UnicodeDecodeError as error:
                yield not_utf8(f"{name} line {number}", error)
        return
    yield from _rows(text, name, line)


def too_long(name: str, line: int, size: int) -> Unreadable:
    """The fault of a line beyond LONGEST_LINE."""
    what = f"is {size / 1e6:,.0f} MB long, and a row may have {LONGEST_LINE / 1e6:,.0f} MB"
    return unreadable(f"{name} line {line}", what, "One line is one row: cut the text into several rows.")


def row_or_fault(values: Any, where: str, raw: str) -> Row | Unreadable:
    """A decoded value as a row, if it is an object."""
    if isinstance(values, dict):
        return Row(values, where)
    kind = "null" if values is None else _JSON_KINDS.get(type(values), "a number")
    what = f"is {kind}, and must be a JSON object with named columns: {near(raw, 0)}"
    instead = 'Write {"text": …} or another format.'
    if isinstance(values, list) and where.endswith(" line 1"):
        instead = "One line is one row; a file that is one JSON array is named .json."
    return unreadable(where, what, instead, raw)


def value_fault(error: ValueError | RecursionError, text: str, start: int = 0) -> tuple[str, int]:
    """(what is wrong, at which character of ``text``) for whatever the decoder raised; the value began at ``start``."""
    if isinstance(error, json.JSONDecodeError):
        reason = error.msg[:1].lower() + error.msg[1:].removesuffix(" starting at").removesuffix(" at")
        return f"is not valid JSON ({reason} at column {column(text, error.pos)}): {near(text, error.pos)}", error.pos
    if isinstance(error, _Constant):
        at = next((m.start() for m in _TOKENS.finditer(text, start) if m.group() == str(error)), start)
        return f"holds {error} at column {column(text, at)}, which is no JSON value: {near(text, at)}", at
    if isinstance(error, _Twice):
        at = _second_key(text, start, str(error))
        return f"has the key `{error}` twice in one object, again at column {column(text, at)}: {near(text, at)}", at
    if isinstance(error, RecursionError):
        return "is nested too deeply to be a row", start
    return "holds a number of thousands of digits", start


def column(text: str, at: int) -> int:
    """Which character of its line the one at ``at`` is, from 1."""
    return at - text.rfind("\n", 0, at)


def surrogate_fault(text: str, where: str, start: int = 0, stop: int | None = None) -> Unreadable | None:
    """The fault of half a surrogate pair (``\\ud83d`` without its other half) in a row: it cannot be written
    as UTF-8, so no tokenizer takes it. None: there is none."""
    stop = len(text) if stop is None else stop
    if text.find("\\u", start, stop) < 0 or _SURROGATE.search(text, start, stop) is None:
        return None
    for match in _ESCAPES.finditer(text, start, stop):
        escape = match.group()
        if len(escape) == 6 and escape[2] in "dD" and escape[3] in "89abcdefABCDEF":
            at = match.start()
            what = f"holds half a character (a lone surrogate) at column {column(text, at)}: {near(text, at)}"
            return unreadable(where, what, MEND, text[start : min(stop, start + RAW)])
    return None


def _rows(text: str, name: str, line: int) -> Iterator[Row | Unreadable]:
    scan = DECODER.scan_once  # type: ignore[attr-defined]
    for number, piece in enumerate(text.split("\n"), line):
        if not piece or piece.isspace():
            continue
        where = f"{name} line {number}"
        try:
            values, end = scan(piece, 0)
        except (StopIteration, ValueError, RecursionError):
            yield _again(piece, where)
            continue
        if type(values) is not dict or (end < len(piece) and not piece[end:].isspace()):
            yield _again(piece, where)
        else:
            yield surrogate_fault(piece, where) or Row(values, where)


def _again(line: str, where: str) -> Row | Unreadable:
    """The line as a row after all (white space or a BOM before it, a pair of surrogates in it), or its fault."""
    text = line.rstrip("\r\n").lstrip("\ufeff")
    if "\0" in text:
        return nul(where, text, text.index("\0"))
    try:
        values = DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        what, _ = value_fault(error, text)
        constant = isinstance(error, _Constant)
        instead = "Write null or text, or remove the line." if constant else MEND
        if isinstance(error, json.JSONDecodeError) and where.endswith(" line 1") and text.strip() in ("[", "{"):
            instead = "One line is one row; a file that is one JSON value over several lines is named .json."
        return unreadable(where, what, instead, text)
    return surrogate_fault(text, where) or row_or_fault(values, where, text)


def _second_key(text: str, start: int, key: str) -> int:
    """Where ``key`` stands for the second time in one object."""
    keys: list[set[str]] = []
    for match in _TOKENS.finditer(text, start):
        token = match.group()
        if token == "{":
            keys.append(set())
        elif token == "}" and keys:
            keys.pop()
        elif match.group(1) is not None and keys:
            found = json.loads(token[: -len(match.group(1))])
            if found == key and found in keys[-1]:
                return match.start()
            keys[-1].add(found)
    return start
