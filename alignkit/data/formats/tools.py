"""Tools on offer and calls of them, in OpenAI's spelling as transformers' templates read it.

A call is ``{"type": "function", "function": {"name": …, "arguments": {…}}}``, with an ``id`` where the row has one. The
arguments are an object, also where the row holds them as JSON text (OpenAI's API does): transformers documents the
object, and a template that writes them as JSON would quote a text twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from alignkit.data.formats.cells import bad, kind_of, shown

CALL = '{"type": "function", "function": {"name": …, "arguments": {…}}}'


def read_tools(value: Any, column: str, where: str) -> list[dict[str, Any]] | None:
    """The functions on offer, each as ``{"type": "function", "function": schema}``; None where there are none.

    ``value``: a list of them, or the list as JSON text; a bare schema (a name at its top) is wrapped.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise bad(where, f"column `{column}` is no JSON: {shown(value)}", "Write a list of functions.") from None
    if not isinstance(value, list):
        raise bad(where, f"column `{column}` holds {kind_of(value)}", "Write a list of functions.")
    tools = []
    for number, tool in enumerate(value, 1):
        inner = tool.get("function") if isinstance(tool, Mapping) else None
        schema = inner if isinstance(inner, Mapping) else tool
        if not isinstance(schema, Mapping) or not isinstance(schema.get("name"), str):
            raise bad(where, f"tool {number} of `{column}` has no name: {shown(tool)}", "Write its JSON schema.")
        tools.append(dict(tool) if schema is inner else {"type": "function", "function": dict(schema)})
    return tools or None


def read_calls(value: Any, where: str) -> list[dict[str, Any]]:
    """A message's `tool_calls`."""
    if isinstance(value, str):
        value = _json(value, where, "`tool_calls`")
    if not isinstance(value, list):
        raise bad(where, f"has {kind_of(value)} as its `tool_calls`", f"Write a list of {CALL}.")
    return [_call(call, where) for call in value]


def old_call(value: Any, where: str) -> dict[str, Any]:
    """OpenAI's old `function_call` of a message."""
    return _call(_json(value, where, "`function_call`") if isinstance(value, str) else value, where)


def written_calls(value: Any, where: str) -> list[dict[str, Any]]:
    """The text of a ShareGPT turn from `function_call`: one call as JSON, or a list of them."""
    found = _json(value, where, "its call") if isinstance(value, str) else value
    calls = found if isinstance(found, list) else [found]
    if not calls:
        raise bad(where, "calls no tool", 'Write {"name": …, "arguments": {…}}.')
    return [_call(call, where) for call in calls]


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
        raise bad(where, f"has a tool call without a name: {shown(call)}", f"Write {CALL}.")
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        arguments = _json(arguments, where, f"the arguments of `{name}`") if arguments.strip() else {}
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise bad(where, f"calls `{name}` with {kind_of(arguments)}", "The arguments must be an object.")
    read: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": arguments}}
    identity = call.get("id")
    if identity not in (None, ""):
        read = {"id": str(identity), **read}
    return read


def _json(text: str, where: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise bad(where, f"{what} is no JSON: {shown(text)}", f"Write {CALL}.") from None
