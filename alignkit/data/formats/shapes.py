"""How the columns of a data set are read: which column plays which part, decided once from the first row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alignkit.data.formats.cells import answer_key, bad, cell, filled, kind_of, string
from alignkit.data.formats.messages import Turns, is_messages, one_message, read_turns
from alignkit.data.formats.order import SYSTEM
from alignkit.data.formats.tools import read_tools
from alignkit.data.formats.transcript import is_transcript, read_transcript
from alignkit.data.rows import Message, Row

CHATS = ("messages", "conversations", "conversation")
ASKS = ("prompt", "question", "query", "problem")
REPLIES = ("response", "solution", "answer")
KEYS = ("answer", "ground_truth", "final_answer", "solution", "reference", "reward_model")
"""Columns that hold what a checker compares with, the most certain first (`reward_model` is verl's object)."""
TOOLS = ("tools", "functions")


@dataclass(frozen=True, slots=True)
class Shape:
    """The columns of a data set.

    ``parts``: part to column (``{"prompt": "question"}``). ``lists``: parts that hold messages (as JSON text, perhaps)
    in the first row; ``transcripts``: parts that hold "Human: … Assistant: …". ``plain``: no template.
    """

    name: str
    parts: dict[str, str]
    lists: frozenset[str] = field(default_factory=frozenset)
    plain: bool = False
    transcripts: frozenset[str] = field(default_factory=frozenset)

    def column(self, part: str) -> str:
        """The column of a part that this shape has."""
        return self.parts[part]


def first_of(values: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of some columns that a row has."""
    return next((name for name in names if name in values), None)


def extras(values: Mapping[str, Any]) -> dict[str, str]:
    """The columns that may stand beside a conversation: a system prompt, tools, a checkable answer."""
    found = {"system": "system"} if "system" in values else {}
    tools = first_of(values, TOOLS)
    if tools is not None:
        found["tools"] = tools
    if "answer" in values:
        found["answer"] = "answer"
    return found


def message_parts(values: Mapping[str, Any], parts: Mapping[str, str]) -> frozenset[str]:
    """The parts whose column holds messages."""
    return frozenset(part for part, name in parts.items() if is_messages(values[name]) or one_message(values[name]))


def transcript_parts(values: Mapping[str, Any], parts: Mapping[str, str]) -> frozenset[str]:
    """The parts whose column holds Anthropic's text."""
    return frozenset(part for part, name in parts.items() if is_transcript(values[name]))


def turns(row: Row, shape: Shape, part: str, role: str, notes: Counter[str]) -> Turns:
    """A part as messages, with their weights."""
    column = shape.parts[part]
    value = cell(row, column)
    if part in shape.lists or isinstance(value, list) or one_message(value):
        return read_turns(value, column, row.where, notes)
    text = string(row, column)
    if part in shape.transcripts:
        messages = read_transcript(text, column, row.where)
        if part == "prompt" and messages[-1] == {"role": "assistant", "content": ""}:
            messages.pop()  # it asks for the answer
        return Turns(messages, None)
    # What follows "Assistant:" begins with the space after the colon.
    return Turns([{"role": role, "content": text.strip() if shape.transcripts else text}], None)


def asked(row: Row, shape: Shape, part: str = "prompt") -> str:
    """The question of a row: its column, and under it the column with the input where there is one."""
    question = string(row, shape.parts[part])
    column = shape.parts.get("input")
    given = row.values.get(column) if column is not None else None
    return question if column is None or given in (None, "") else f"{question}\n{string(row, column)}"


def with_system(row: Row, shape: Shape, messages: list[Message]) -> list[Message]:
    """A `system` column goes before the turns, unless they begin with one."""
    column = shape.parts.get("system")
    system = row.values.get(column) if column is not None else None
    if column is None or system in (None, "") or (messages and messages[0]["role"] in SYSTEM):
        return messages
    return [{"role": "system", "content": string(row, column)}, *messages]


def tools_of(row: Row, shape: Shape) -> list[dict[str, Any]] | None:
    """The functions on offer in a row."""
    column = shape.parts.get("tools")
    return None if column is None else read_tools(row.values.get(column), column, row.where)


def key_of(row: Row, shape: Shape) -> str | None:
    """What a checker compares with: the part `answer` (of verl's object its ground truth)."""
    column = shape.parts.get("answer")
    value = row.values.get(column) if column is not None else None
    if column == "reward_model" and isinstance(value, Mapping):
        value = value.get("ground_truth")
    return answer_key(value)


def plain_text(row: Row, shape: Shape, part: str) -> str:
    """A part that must be text; an answer, or the text itself, must say something."""
    column = shape.parts[part]
    value = cell(row, column)
    if isinstance(value, list | Mapping):
        what = f"column `{column}` holds {kind_of(value)}, and holds text in the first row"
        raise bad(row.where, what, "Give all rows the same form, or split the file.")
    return string(row, column) if part == "prompt" else filled(row, column)
