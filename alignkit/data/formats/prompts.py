"""Rows to answer or to classify: prompts, with a checkable answer where there is one, and labelled text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from alignkit.data.formats.cells import bad, cell, filled, shown
from alignkit.data.formats.messages import is_messages
from alignkit.data.formats.order import check_order, check_prompt
from alignkit.data.formats.shapes import (
    ASKS,
    KEYS,
    Shape,
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
from alignkit.data.rows import Labelled, Prompt, Row

TEXTS = ("text", "sentence", "review", "comment", "document", "content")
CLASSES = ("label_text", "label", "labels", "class", "category", "sentiment", "target")


def find_prompt(values: Mapping[str, Any]) -> Shape | None:
    """A prompt, alone or with what a checker compares with."""
    ask = first_of(values, ASKS)
    if ask is None:
        return None
    parts = {"prompt": ask, **extras(values)}
    key = next((name for name in KEYS if name in values and not is_messages(values[name])), None)
    parts.pop("answer", None)
    if key is not None:
        parts["answer"] = key
    name = "prompts" if key is None else "prompts with a checkable answer"
    lists, transcripts = message_parts(values, {"prompt": ask}), transcript_parts(values, {"prompt": ask})
    # Text that is to be answered is put to an assistant.
    return Shape(name, parts, lists, transcripts=transcripts)


def read_prompt(row: Row, shape: Shape, notes: Counter[str]) -> Prompt:
    column = shape.column("prompt")
    if "prompt" not in shape.lists and isinstance(row.values.get(column), str):
        filled(row, column)
    messages = turns(row, shape, "prompt", "user", notes).messages
    check_order(messages, row.where)
    check_prompt(messages, row.where, column)
    answer = key_of(row, shape)
    if "answer" in shape.parts and (answer is None or not answer.strip()):
        what = f"column `{shape.parts['answer']}` is empty, and holds what answers are checked against"
        raise bad(row.where, what, "Write it, or leave such rows out with data.on_error=skip.")
    return Prompt(with_system(row, shape, messages), row.where, answer, tools_of(row, shape))


def find_labelled(values: Mapping[str, Any]) -> Shape | None:
    """A text and its class."""
    text, label = first_of(values, TEXTS), first_of(values, CLASSES)
    if text is None or label is None or "role" in values:
        return None
    return Shape("labelled text", {"text": text, "label": label}, plain=True)


def read_labelled(row: Row, shape: Shape, notes: Counter[str]) -> Labelled:
    column = shape.column("label")
    value = cell(row, column)
    if isinstance(value, bool):
        value = "true" if value else "false"
    if not isinstance(value, str | int) or value == "":
        raise bad(
            row.where, f"column `{column}` holds {shown(value)}, and must be a class", "Write a name or a number."
        )
    return Labelled(plain_text(row, shape, "text"), str(value), row.where)
