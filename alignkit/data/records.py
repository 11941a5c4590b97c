"""A document as bytes and back, and the hash that stands for what it says.

Records are what the store keeps beside the tokens, so that a held-out row can be answered, a near-duplicate compared
and a preview shown without reading the source again. The order of keys inside messages and tools is kept: a template
may write a tool's schema into the prompt as it stands.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from typing import Any, TypeAlias

from alignkit.data.rows import (
    Comparison,
    Completion,
    Conversation,
    Document,
    Feedback,
    Labelled,
    Message,
    Preference,
    Prompt,
    Ranking,
    Said,
    Scored,
    Text,
)

HASH_BYTES = 16

_TYPES: dict[str, Any] = {
    "conversation": Conversation,
    "completion": Completion,
    "text": Text,
    "preference": Preference,
    "feedback": Feedback,
    "scored": Scored,
    "ranking": Ranking,
    "prompt": Prompt,
    "labelled": Labelled,
}
_NAMES = {kind: name for name, kind in _TYPES.items()}
_FIELDS = {kind: tuple(field.name for field in fields(kind) if field.name != "where") for kind in _NAMES}
_TUPLES = ("weights", "scores", "answers")
_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_QUOTED = json.encoder.encode_basestring
_SPACED = json.JSONEncoder(ensure_ascii=False).encode

Spoken: TypeAlias = "str | list[list[Any]]"


def record(document: Document) -> bytes:
    """The document without its place, as one line of JSON in UTF-8 (lone surrogates are kept)."""
    kind = type(document)
    values = {name: value for name in _FIELDS[kind] if (value := getattr(document, name)) is not None}
    return _COMPACT([_NAMES[kind], values]).encode("utf-8", "surrogatepass")


def record_and_hash(document: Document) -> tuple[bytes, bytes]:
    """`record` and `content_hash` in one, and several times as fast for a plain conversation."""
    if type(document) is Conversation and (document.answer, document.tools, document.weights) == (None, None, None):
        turns = []
        for message in document.messages:
            if len(message) != 2 or type(content := message.get("content")) is not str:
                break
            turns.append((_QUOTED(message["role"]), _QUOTED(content)))
        else:
            short = ",".join([f'{{"role":{role},"content":{content}}}' for role, content in turns])
            said = ", ".join([f"[{role}, {content}]" for role, content in turns])
            return f'["conversation",{{"messages":[{short}]}}]'.encode("utf-8", "surrogatepass"), _digest(f"[{said}]")
    return record(document), content_hash(document)


def document(data: bytes, where: str) -> Document:
    """The document that `record` wrote, standing at ``where``. Raises ValueError when this is no record."""
    name, values = json.loads(data.decode("utf-8", "surrogatepass"))
    for key in _TUPLES:
        if key in values:
            values[key] = tuple(values[key])
    found: Document = _TYPES[name](**values, where=where)
    return found


def content_hash(document: Document) -> bytes:
    """16 bytes that stand for what a document says, wherever it was read from.

    Its place, loss weights, scores and key answer play no part; tools and tool calls do. Conversations of roles and
    contents alone, completions and texts keep the hashes that earlier versions gave them, so that hold-outs stay.
    """
    said: object
    if isinstance(document, Text):
        said = document.text
    elif isinstance(document, Conversation):
        said = _messages(document.messages)
        if document.tools:
            said = ["tools", document.tools, said]
    elif isinstance(document, Completion):
        said = [document.prompt, document.completion]
    else:
        said = _compared(document)
    text = said if isinstance(said, str) else _SPACED(said)
    return _digest(text)


def prompt_hash(document: Comparison) -> bytes:
    """16 bytes that stand for what the answers of a comparison answer."""
    return _digest(_SPACED(["prompt", _said(document.prompt), getattr(document, "tools", None)]))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=HASH_BYTES).digest()


def spoken_text(document: Document) -> str:
    """All that a document says as one plain text, for comparing documents by their words."""
    if isinstance(document, Text | Labelled):
        return document.text
    if isinstance(document, Conversation):
        return _plain(document.messages)
    if isinstance(document, Completion):
        return f"{document.prompt}\n{document.completion}"
    if isinstance(document, Preference):
        return "\n".join(map(_plain, (document.prompt, document.chosen, document.rejected)))
    if isinstance(document, Feedback | Scored):
        return f"{_plain(document.prompt)}\n{_plain(document.completion)}"
    if isinstance(document, Ranking):
        return "\n".join(map(_plain, (document.prompt, *document.answers)))
    return _plain(document.prompt)


def _compared(document: Preference | Feedback | Scored | Ranking | Prompt | Labelled) -> list[Any]:
    if isinstance(document, Preference):
        said = [_said(document.prompt), _said(document.chosen), _said(document.rejected)]
        return ["preference", *said, *([document.tools] if document.tools else [])]
    if isinstance(document, Feedback):
        return ["feedback", _said(document.prompt), _said(document.completion), document.label]
    if isinstance(document, Scored):
        return ["scored", _said(document.prompt), _said(document.completion)]
    if isinstance(document, Ranking):
        return ["ranking", _said(document.prompt), *map(_said, document.answers)]
    if isinstance(document, Prompt):
        return ["prompt", _said(document.prompt), *([document.tools] if document.tools else [])]
    return ["labelled", document.text, document.label]


def _said(said: Said) -> Spoken:
    return said if isinstance(said, str) else _messages(said)


def _messages(messages: list[Message]) -> list[list[Any]]:
    """[role, content] of each message; what else it holds (tool calls, a name, reasoning) as a third element."""
    found = []
    for message in messages:
        turn = [message["role"], message.get("content")]
        if len(message) > 2:
            extra = {key: message[key] for key in sorted(message) if key not in ("role", "content")}
            turn += [extra] if extra else []
        found.append(turn)
    return found


def _plain(said: Said) -> str:
    if isinstance(said, str):
        return said
    contents = (message.get("content") for message in said)
    return "\n".join(content for content in contents if isinstance(content, str))
