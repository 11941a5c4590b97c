"""Which stretch of a rendered conversation is whose: asked of the template itself, message by message."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from alignkit.data.encoding.templating import apply_template, special_tokens
from alignkit.data.rows import Message

BEFORE = "template"
"""What text is called that the template writes before the first message: a BOS, a system prompt of its own."""


def turn_edges(tokenizer: Any, messages: Sequence[Message], text: str, tools: Any = None) -> list[tuple[str, int]]:
    """(role, where its text begins) for every turn that can be told apart in a rendered conversation.

    A template may put the system prompt into the first question, or refuse a conversation's beginning: such turns come
    out as one, "system + user".
    """
    special = special_tokens(tokenizer)
    edges: list[tuple[str, int]] = []
    roles: list[str] = []
    at = 0
    for count, message in enumerate(messages, 1):
        roles.append(str(message["role"]))
        if count == len(messages):
            end: int | None = len(text)
        else:
            end = _by_prefix(tokenizer, messages[:count], text, at, tools)
            if end is None:
                end = _by_content(message, messages[count], text, at, special)
        if end is None or end <= at:
            continue
        edges.append((_joined(roles), at))
        roles, at = [], end
    if roles and edges:  # the last turns have no text of their own
        edges[-1] = (_joined([edges[-1][0], *roles]), edges[-1][1])
    head = _head(tokenizer, messages, text, tools) if messages and messages[0]["role"] == "user" else 0
    if head and edges and (len(edges) == 1 or head < edges[1][1]):
        edges = [(BEFORE, 0), (edges[0][0], head), *edges[1:]]
    return edges


def _joined(roles: Sequence[str]) -> str:
    return " + ".join(dict.fromkeys(roles))


def _by_prefix(tokenizer: Any, messages: Sequence[Message], text: str, at: int, tools: Any) -> int | None:
    """How much of `text` the first messages make up; None when the template does not say."""
    try:
        said = _apply(tokenizer, messages, tools)
    except Exception:  # a template is a program of the model's author
        return None
    last = messages[-1]
    if last["role"] in ("system", "developer") and _content(last) not in text[at : len(said)]:
        return None  # it is kept for the first question
    return len(said) if text.startswith(said) else None


def _by_content(message: Message, after: Message, text: str, at: int, special: re.Pattern[str]) -> int | None:
    """Where a message ends that the template writes otherwise when it is the last one: behind the first special token
    after its content, if the next message's content is yet to come."""
    said, follows = _content(message), _content(after)
    start = text.find(said, at) if said else -1
    match = special.search(text, start + len(said)) if start >= 0 else None
    if match is None or not follows or text.find(follows, match.end()) < 0:
        return None
    if 0 <= text.find(follows, start + len(said)) < match.start():
        return None
    end = match.end()
    return end + len(text[end:]) - len(text[end:].lstrip("\n"))


def _content(message: Message) -> str:
    content = message.get("content")
    return content.strip() if isinstance(content, str) else ""


def _head(tokenizer: Any, messages: Sequence[Message], text: str, tools: Any) -> int:
    """The length of what the template writes before the first user turn on its own: a BOS, a default system prompt."""
    reply = {"role": "assistant", "content": "x"}
    try:
        alone, answered, again = (
            _apply(tokenizer, said, tools)
            for said in ([messages[0]], [messages[0], reply], [messages[0], reply, messages[0]])
        )
    except Exception:  # see above
        return 0
    turn = again[len(answered) :]
    if not (again.startswith(answered) and turn and alone.endswith(turn)):
        return 0
    head = len(alone) - len(turn)
    return head if text.startswith(alone[:head]) else 0


def _apply(tokenizer: Any, messages: Sequence[Message], tools: Any) -> str:
    return apply_template(tokenizer, [messages], False, [tools] if tools else None)[0]
