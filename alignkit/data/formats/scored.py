"""Rows that rate: a prompt, one answer, and a number that says what it is worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from alignkit.data.formats.cells import bad, number
from alignkit.data.formats.comparisons import asking, check_exchange, is_plain, prompt_of
from alignkit.data.formats.shapes import (
    CHATS,
    Shape,
    first_of,
    message_parts,
    plain_text,
    transcript_parts,
    turns,
    with_system,
)
from alignkit.data.rows import Row, Scored

SCORES = ("score", "rating", "reward", "overall_score")


def find_scored(values: Mapping[str, Any]) -> Shape | None:
    """A prompt, one answer and its score; or a conversation whose last answer it is of."""
    score = first_of(values, SCORES)
    if score is None:
        return None
    chat = first_of(values, CHATS)
    if chat is not None:
        parts = asking({name: value for name, value in values.items() if name == "system"})
        return Shape("answers with a score", {**parts, "messages": chat, "score": score}, frozenset({"messages"}))
    reply = first_of(values, ("completion", "response", "output", "answer"))
    parts = asking(values, chats=False)
    if reply is None or "prompt" not in parts:
        return None
    parts.pop("tools", None)
    heads = {"prompt": parts["prompt"], "completion": reply}
    lists, transcripts = message_parts(values, heads), transcript_parts(values, heads)
    parts = {**parts, "completion": reply, "score": score}
    if is_plain(parts, lists | transcripts):
        return Shape("answers with a score, without a template", parts, plain=True)
    return Shape("answers with a score", parts, lists, transcripts=transcripts)


def read_scored(row: Row, shape: Shape, notes: Counter[str]) -> Scored:
    """Raises RequestError where there is no finite number, no prompt or no answer."""
    column = shape.column("score")
    score = number(row, column)
    if score is None:
        raise bad(row.where, f"column `{column}` is empty", "Write a number, or remove the row.")
    if shape.plain:
        return Scored(plain_text(row, shape, "prompt"), plain_text(row, shape, "completion"), score, row.where)
    if "messages" in shape.parts:
        messages = turns(row, shape, "messages", "user", notes).messages
        if messages[-1]["role"] != "assistant":
            raise bad(row.where, "has no answer to rate: the last turn is not the assistant's", "Add the answer.")
        at = max((i for i, message in enumerate(messages) if message["role"] in ("user", "tool")), default=-1) + 1
        prompt, answer = messages[:at], messages[at:]
    else:
        prompt = prompt_of(row, shape, notes)
        answer = turns(row, shape, "completion", "assistant", notes).messages
    check_exchange(row, prompt, answer, shape.parts.get("completion", shape.parts.get("messages", "")))
    return Scored(with_system(row, shape, prompt), answer, score, row.where)
