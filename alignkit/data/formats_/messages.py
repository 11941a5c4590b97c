"""Lists of messages, in OpenAI's spelling or ShareGPT's, become one spelling; what does not fit is named by its row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from alignkit.data.rows import Message
from alignkit.errors import Fault, RequestError

ROLES = ("system", "developer", "user", "assistant", "tool")
SPOKEN = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant"}
"""ShareGPT's names for the roles."""

UNREAD = {
    "tool_calls": "tool calls",
    "function_call": "tool calls",
    "weight": "a weight per message",
    "train": "a trainable flag per message",
    "trainable": "a trainable flag per message",
}
"""Keys of a message that would change what is trained: refused, because to skip them in silence trains on the wrong
thing."""


def bad(where: str, what: str, instead: str = "") -> RequestError:
    """The error for one row."""
    return RequestError(Fault(where=where, what=what, instead=instead))


def shown(value: Any, limit: int = 60) -> str:
    """A value found in a row, shortened for a sentence."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return f"`{text[:limit]}…`" if len(text) > limit else f"`{text}`"


def kind_of(value: Any) -> str:
    """What a person calls the type of a JSON value."""
    if value is None:
        return "null"
    names = {bool: "true/false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def is_messages(value: Any) -> bool:
    """Whether a cell looks like a list of messages (a CSV cell may hold the list as JSON)."""
    if isinstance(value, str):
        return value.lstrip().startswith("[{")
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def read_messages(value: Any, column: str, where: str) -> list[Message]:
    """`value` as messages with role and content. Raises RequestError naming row, turn and what was found."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise bad(
                where, f"column `{column}` holds text where a list of messages was expected: {shown(value)}"
            ) from None
    if not isinstance(value, list):
        raise bad(where, f"column `{column}` holds {kind_of(value)}, and must be a list of messages")
    if not value:
        raise bad(where, f"column `{column}` is an empty list", "A row needs a question and an answer; remove the row.")
    return [_message(turn, f"{where}, turn {number} of `{column}`") for number, turn in enumerate(value, 1)]


def _message(turn: Any, where: str) -> Message:
    if not isinstance(turn, Mapping):
        raise bad(where, f"is {kind_of(turn)}, and must be an object with role and content: {shown(turn)}")
    if "role" in turn:
        role, content = turn["role"], turn.get("content")
    elif "from" in turn:
        role, content = turn["from"], turn.get("value")
    else:
        raise bad(
            where,
            f"has the keys {', '.join(map(str, turn)) or '(none)'}",
            'Write {"role": …, "content": …}, or ShareGPT\'s {"from": …, "value": …}.',
        )
    for key, name in UNREAD.items():
        if turn.get(key) not in (None, [], {}):
            raise bad(where, f"has `{key}`, and {name} cannot be read yet", f"Remove `{key}`, or leave these rows out.")
    spoken = SPOKEN.get(role, role) if isinstance(role, str) else role
    if spoken not in ROLES:
        raise bad(where, f"has the unknown role {shown(role)}", f"Known roles: {', '.join(ROLES)}, human, gpt.")
    return {"role": spoken, "content": _content(content, where)}


def _content(content: Any, where: str) -> str:
    """Text, or OpenAI's list of text parts joined."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content and all(isinstance(part, Mapping) for part in content):
        other = next((part for part in content if part.get("type", "text") != "text"), None)
        if other is not None:
            raise bad(where, f"has a part of type {shown(other.get('type'))}", "Only text can be trained on.")
        texts = [part.get("text") for part in content]
        if all(isinstance(text, str) for text in texts):
            return "".join(str(text) for text in texts)
    raise bad(where, f"has {kind_of(content)} as its content", "The content must be text.")
