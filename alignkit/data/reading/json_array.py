"""A JSON file that is one array of objects, read element by element so that a fault has its line and its column."""

from __future__ import annotations

import json
from collections.abc import Iterator

from alignkit.data.reading.faults import RAW, near, undecodable, unreadable
from alignkit.data.reading.json_lines import BOM, DECODER, jsonl_rows, row_or_fault, surrogate_fault, value_fault
from alignkit.data.rows import Row, Unreadable


def json_rows(data: bytes, name: str, cut: bool = False) -> Iterator[Row | Unreadable]:
    """The rows of a .json file: an array of objects, or one object a line. ``cut``: the data go on beyond these."""
    if not data.removeprefix(BOM).lstrip().startswith(b"["):
        yield from _lines(data[: data.rfind(b"\n") + 1] if cut else data, name, cut)
        return
    try:
        text = data.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        if not cut or error.start < len(error.object) - 4:
            yield undecodable(error.object, name, error)
            return
        text = error.object[: error.start].decode("utf-8")
    yield from _elements(text, name, cut)


def _lines(data: bytes, name: str, cut: bool) -> Iterator[Row | Unreadable]:
    """One object a line; but one object over several lines is told as what it is."""
    rows = jsonl_rows(data, name)
    first = next(rows, None)
    if first is None:
        return
    if isinstance(first, Unreadable) and not cut:
        try:
            whole = DECODER.decode(data.removeprefix(BOM).decode("utf-8"))
        except (ValueError, RecursionError):
            whole = None
        if isinstance(whole, dict):
            yield _one_object(whole, name, first)
            return
    yield first
    yield from rows


def _one_object(values: dict[str, object], name: str, first: Unreadable) -> Unreadable:
    lists = [key for key, value in values.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    what = f"is one JSON object with the keys {', '.join(list(values)[:5])}, and must be an array of rows"
    instead = f"Take the array out of it: jq '.{lists[0]}' {name} > rows.json." if lists else "Put [ and ] around it."
    return unreadable(f"{name} line 1", what, instead, first.raw, rest=True)


def _elements(text: str, name: str, cut: bool) -> Iterator[Row | Unreadable]:
    """The elements of the array. A broken one ends the reading: where the next begins cannot be known."""
    decode = DECODER.raw_decode
    at, line, counted = text.index("[") + 1, 1, 0
    first = True
    while True:
        at = _skip_space(text, at)
        if at < len(text) and text[at] == "," and not first:
            at = _skip_space(text, at + 1)
        elif at < len(text) and text[at] == "]":
            after = _skip_space(text, at + 1)
            if after < len(text):
                where = f"{name} line {text.count(chr(10), 0, after) + 1}"
                what = f"something follows the end of the array: {near(text, after)}"
                yield unreadable(where, what, "Remove it.", text[after : after + RAW], rest=True)
            return
        elif not first and at < len(text):
            where = f"{name} line {text.count(chr(10), 0, at) + 1}"
            what = f"a comma is missing: {near(text, at)}"
            yield unreadable(where, what, "Mend the file.", text[at : at + RAW], rest=True)
            return
        line += text.count("\n", counted, at)
        counted = at
        where = f"{name} line {line}"
        try:
            values, end = decode(text, at)
        except (ValueError, RecursionError) as error:
            if not (cut and isinstance(error, json.JSONDecodeError)):
                what, found = value_fault(error, text, at)
                where = f"{name} line {line + text.count(chr(10), at, found)}"
                instead = "Mend the file from there on: the rows after it cannot be read either."
                yield unreadable(where, what, instead, text[at : at + RAW], rest=True)
            return
        if cut and end >= len(text):
            return
        raw = text[at : min(end, at + RAW)]
        yield surrogate_fault(text, where, at, end) or row_or_fault(values, where, raw)
        at, first = end, False


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at
