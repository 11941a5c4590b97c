"""Which format the columns are, said out loud, and each row as a document.

The columns of the first row decide for the whole data set; a row that does not fit is an error that names it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from alignkit.data.messages import bad, is_messages, kind_of, read_messages, shown
from alignkit.data.rows import Completion, Conversation, Document, Message, Row, Text

CHATS = ("messages", "conversations", "conversation")
ASKS = ("prompt", "question", "query", "problem")
REPLIES = ("response", "solution", "answer")

CHOICES = (
    "`messages` (or ShareGPT's `conversations`), `instruction` and `output`, `prompt` and `completion`, "
    "`question` and `answer`, or `text`"
)
"""The columns that make a format, for the sentence that says what would do."""


@dataclass(frozen=True)
class Format:
    """A recognised format: what it is called, the columns it reads and ignores, and how a row is converted."""

    name: str
    columns: tuple[str, ...]
    ignored: tuple[str, ...]
    convert: Callable[[Row], Document]
    raw_text: bool = False

    def __str__(self) -> str:
        """For people: "chat messages (columns messages, answer; ignored: id)"."""
        text = f"column{'s' if len(self.columns) > 1 else ''} {', '.join(self.columns)}"
        if self.ignored:
            text += f"; ignored: {', '.join(self.ignored)}"
        return f"{self.name} ({text})"


def recognise(row: Row) -> Format:
    """The format of a data set, from its first row. Raises RequestError: what was found, and which columns would do."""
    values = row.values
    refuse_other_kinds(row)

    def found(name: str, columns: tuple[str, ...], convert: Callable[[Row], Document], raw: bool = False) -> Format:
        present = tuple(column for column in columns if column in values)
        ignored = tuple(column for column in values if column not in present)
        return Format(name, present, ignored, convert, raw)

    for column in CHATS:
        if column in values:
            return found(_chat_name(values[column]), (column, "system", "answer"), _conversation(column))
    if "instruction" in values and "output" in values:
        return found("Alpaca", ("instruction", "input", "output", "system", "history", "answer"), _alpaca)
    if "prompt" in values and "completion" in values:
        if is_messages(values["prompt"]) or is_messages(values["completion"]):
            return found("conversational prompt and completion", ("prompt", "completion", "answer"), _exchange)
        return found("prompt and completion, without a template", ("prompt", "completion", "answer"), _completion)
    asks = [column for column in ASKS if column in values]
    replies = [column for column in REPLIES if column in values]
    if asks and replies:
        ask, reply = asks[0], replies[0]
        return found("question and answer", (ask, reply, "system", "answer"), _question(ask, reply))
    if "text" in values:
        return found("raw text", ("text",), _text, raw=True)
    raise bad(row.where, *_no_format(list(values)))


def refuse_other_kinds(row: Row) -> None:
    """Preference pairs and feedback are not rows to imitate: all of them together would teach the bad answers too."""
    values = row.values
    if "chosen" in values and "rejected" in values:
        raise bad(
            row.where,
            "this is preference data (columns chosen and rejected), and this stage learns from answers to imitate",
            "Use a preference stage, or write a file of `messages` with the chosen answers only.",
        )
    if "completion" in values and isinstance(values.get("label"), bool):
        raise bad(
            row.where,
            "this is feedback data (columns prompt, completion and label), and half of its answers may be bad ones",
            "Use a stage for unpaired feedback, or write a file without `label` that holds the good answers only.",
        )
    if values.get("tools"):
        raise bad(
            row.where,
            "the row offers tools (column tools), and tools cannot be read yet",
            "Remove the column, or leave these rows out.",
        )


def checkable(document: Document) -> tuple[str | None, bool]:
    """The reference of a document (its `answer` column, else its last answer) and whether comparing with it makes
    sense: there was an `answer` column, or the answer is a JSON object."""
    if isinstance(document, Text):
        return None, False
    if document.answer is not None:
        return document.answer, True
    if isinstance(document, Completion):
        last = document.completion
    else:
        turns = [message["content"] for message in document.messages if message["role"] == "assistant"]
        if not turns:
            return None, False
        last = turns[-1]
    return last, _is_json_object(last)


def _no_format(columns: list[str]) -> tuple[str, str]:
    found = f"the columns are {', '.join(columns)}" if columns else "the row has no columns"
    known = (*CHATS, *ASKS, *REPLIES, "instruction", "output", "completion", "text")
    near = {
        column: match[0]
        for column in columns
        if column not in known and (match := get_close_matches(column.lower(), known, n=1, cutoff=0.75))
    }
    hint = "".join(f" Rename `{column}` to `{name}`?" for column, name in near.items())
    return f"{found}, and that is no format known here", f"Columns that would do: {CHOICES}.{hint}"


def _chat_name(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], Mapping) and "from" in value[0]:
        return "ShareGPT"
    return "chat messages"


def _conversation(column: str) -> Callable[[Row], Document]:
    def convert(row: Row) -> Document:
        messages = read_messages(_cell(row, column), column, row.where)
        return Conversation(_with_system(row, messages), row.where, _answer(row))

    return convert


def _alpaca(row: Row) -> Document:
    turns: list[Message] = []
    for pair in row.values.get("history") or []:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise bad(row.where, f"column `history` holds {shown(pair)}", "It must be a list of [question, answer].")
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    asked = _string(row, "instruction")
    given = row.values.get("input")
    if given not in (None, ""):
        asked = f"{asked}\n{_string(row, 'input')}"
    turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": _string(row, "output")}]
    return Conversation(_with_system(row, turns), row.where, _answer(row))


def _exchange(row: Row) -> Document:
    messages = _turns(row, "prompt", "user") + _turns(row, "completion", "assistant")
    return Conversation(messages, row.where, _answer(row))


def _completion(row: Row) -> Document:
    return Completion(_string(row, "prompt"), _string(row, "completion"), row.where, _answer(row))


def _question(ask: str, reply: str) -> Callable[[Row], Document]:
    def convert(row: Row) -> Document:
        messages = _with_system(row, _turns(row, ask, "user"))
        messages.append({"role": "assistant", "content": _string(row, reply)})
        # `question` and `answer` alone: the answer may be an essay, so it is no answer key unless it looks like one.
        answer = _answer(row)
        if reply == "answer" and answer is not None and ask != "prompt" and not looks_checkable(answer):
            answer = None
        return Conversation(messages, row.where, answer)

    return convert


def _text(row: Row) -> Document:
    return Text(_string(row, "text"), row.where)


def _turns(row: Row, column: str, role: str) -> list[Message]:
    """A cell that is a list of messages, or one message of `role` as plain text."""
    value = _cell(row, column)
    if is_messages(value):
        return read_messages(value, column, row.where)
    return [{"role": role, "content": _string(row, column)}]


def _with_system(row: Row, messages: list[Message]) -> list[Message]:
    """A `system` column goes before the turns, unless they begin with one."""
    system = row.values.get("system")
    if system in (None, "") or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": _string(row, "system")}, *messages]


def _answer(row: Row) -> str | None:
    value = row.values.get("answer")
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _cell(row: Row, column: str) -> Any:
    if column not in row.values:
        columns = ", ".join(row.values) or "(none)"
        raise bad(
            row.where,
            f"has no column `{column}` as the first row has; its columns are {columns}",
            "Give all rows the same columns, or split the file by format.",
        )
    return row.values[column]


def _string(row: Row, column: str) -> str:
    value = _cell(row, column)
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    raise bad(row.where, f"column `{column}` holds {kind_of(value)}, and must be text")


def looks_checkable(answer: str) -> bool:
    """Whether an answer can be compared by a program: a JSON object, `#### 42`, or at most three words."""
    return _is_json_object(answer) or "####" in answer or len(answer.split()) <= 3


def _is_json_object(text: str) -> bool:
    if not text.lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
