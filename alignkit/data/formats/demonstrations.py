"""Rows to imitate: chat messages, ShareGPT, Alpaca, prompt and completion, question and answer, raw text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from alignkit.data.formats.cells import bad, filled, shown
from alignkit.data.formats.checkable import looks_checkable
from alignkit.data.formats.messages import Turns, is_messages, one_message
from alignkit.data.formats.order import check_order
from alignkit.data.formats.shapes import (
    ASKS,
    CHATS,
    REPLIES,
    Shape,
    asked,
    extras,
    first_of,
    key_of,
    message_parts,
    plain_text,
    tools_of,
    transcript_parts,
    turns,
    with_system,
)
from alignkit.data.rows import Completion, Conversation, Message, Row, Text

Values = Mapping[str, Any]


def find_messages(values: Values) -> Shape | None:
    """A column of messages, OpenAI's or ShareGPT's."""
    column = first_of(values, CHATS)
    if column is None:
        return None
    cell = values[column]
    first = cell[0] if isinstance(cell, list) and cell else None
    sharegpt = isinstance(first, Mapping) and "from" in first and first.get("role") is None
    name = "ShareGPT" if sharegpt else "chat messages"
    return Shape(name, {"messages": column, **extras(values)}, frozenset({"messages"}))


def read_conversation(row: Row, shape: Shape, notes: Counter[str]) -> Conversation:
    return _conversation(row, shape, turns(row, shape, "messages", "user", notes))


def find_alpaca(values: Values) -> Shape | None:
    """Alpaca's columns (Taori et al. 2023), or Dolly's: instruction, context, response."""
    if "instruction" not in values:
        return None
    output = first_of(values, ("output", "response"))
    if output is None:
        return None
    parts = {"prompt": "instruction"}
    given = first_of(values, ("input", "context"))
    if given is not None:
        parts["input"] = given
    parts["completion"] = output
    if "history" in values:
        parts["history"] = "history"
    return Shape("Dolly" if given == "context" else "Alpaca", {**parts, **extras(values)})


def read_alpaca(row: Row, shape: Shape, notes: Counter[str]) -> Conversation:
    messages = _history(row) if "history" in shape.parts else []
    messages += [
        {"role": "user", "content": asked(row, shape)},
        {"role": "assistant", "content": filled(row, shape.column("completion"))},
    ]
    return _conversation(row, shape, Turns(messages, None))


def _history(row: Row) -> list[Message]:
    """Earlier exchanges, oldest first."""
    history = row.values.get("history") or []
    messages: list[Message] = []
    for pair in history if isinstance(history, list) else [history]:
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise bad(row.where, f"column `history` holds {shown(pair)}", "It must be a list of [question, answer].")
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return messages


def find_completion(values: Values) -> Shape | None:
    """A prompt and its completion: plain text without a template, unless one of them is messages."""
    if not ("prompt" in values and "completion" in values):
        return None
    both = {"prompt": "prompt", "completion": "completion"}
    parts = {**both, **extras(values)}
    lists, transcripts = message_parts(values, both), transcript_parts(values, both)
    if lists or transcripts or "system" in parts:
        return Shape("conversational prompt and completion", parts, lists, transcripts=transcripts)
    parts.pop("tools", None)
    return Shape("prompt and completion, without a template", parts, plain=True)


def read_completion(row: Row, shape: Shape, notes: Counter[str]) -> Conversation | Completion:
    if shape.plain:
        prompt, completion = plain_text(row, shape, "prompt"), plain_text(row, shape, "completion")
        return Completion(prompt, completion, row.where, key_of(row, shape))
    return _exchange(row, shape, notes)


def find_question(values: Values) -> Shape | None:
    """A question and its answer, which may be an essay."""
    ask, reply = first_of(values, ASKS), first_of(values, REPLIES)
    if ask is None or reply is None:
        return None
    both = {"prompt": ask, "completion": reply}
    lists, transcripts = message_parts(values, both), transcript_parts(values, both)
    return Shape("question and answer", {**both, **extras(values)}, lists, transcripts=transcripts)


def read_question(row: Row, shape: Shape, notes: Counter[str]) -> Conversation:
    found = _exchange(row, shape, notes)
    # `question` and `answer` alone: the answer may be an essay, so it is no answer key unless it looks like one.
    own = shape.parts.get("answer") == shape.parts["completion"] and shape.parts["prompt"] != "prompt"
    if own and found.answer is not None and not looks_checkable(found.answer):
        return Conversation(found.messages, found.where, None, found.tools, found.weights)
    return found


def find_text(values: Values) -> Shape | None:
    """Raw text, for continued pretraining."""
    column = first_of(values, ("text", "content") if "role" not in values else ("text",))
    return None if column is None else Shape("raw text", {"text": column}, plain=True)


def read_text(row: Row, shape: Shape, notes: Counter[str]) -> Text:
    return Text(plain_text(row, shape, "text"), row.where)


def _exchange(row: Row, shape: Shape, notes: Counter[str]) -> Conversation:
    """A prompt and its reply as one conversation. Assistant turns within the prompt are context: only the reply is
    learned."""
    prompt = turns(row, shape, "prompt", "user", notes).messages
    reply = turns(row, shape, "completion", "assistant", notes)
    return _conversation(row, shape, joined(prompt, reply.messages, reply.weights))


def joined(prompt: list[Message], reply: list[Message], weights: list[float] | None = None) -> Turns:
    """Prompt and reply, with weights where the prompt has answers of its own, or the reply has weights."""
    if weights is None and not any(message["role"] == "assistant" for message in prompt):
        return Turns(prompt + reply, None)
    own = weights or [1.0 if message["role"] == "assistant" else 0.0 for message in reply]
    return Turns(prompt + reply, [0.0] * len(prompt) + own)


def _conversation(row: Row, shape: Shape, found: Turns) -> Conversation:
    messages, weights = found
    check_order(messages, row.where)
    full = with_system(row, shape, messages)
    if weights is not None and len(full) > len(messages):
        weights = [0.0, *weights]
    # The reply may stand in the column that holds the key too; a list of messages is no key.
    answer = key_of(row, shape) if "answer" in shape.parts and not _is_said(row, shape) else None
    return Conversation(full, row.where, answer, tools_of(row, shape), None if weights is None else tuple(weights))


def _is_said(row: Row, shape: Shape) -> bool:
    value = row.values.get(shape.parts["answer"])
    return is_messages(value) or one_message(value) if not isinstance(value, str) else False
