"""Documents in the spelling of a format: the other way round from reading, and never with something left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from alignkit.data.formats.cells import bad
from alignkit.data.rows import Completion, Conversation, Document, Feedback, Kind, Message, Preference, Said, Text
from alignkit.errors import RequestError

Spelled: TypeAlias = dict[str, Any]

SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
_MESSAGES = "Write format=messages, which says all of it."


@dataclass(frozen=True, slots=True)
class Spelling:
    """``kind``: of the documents that the format holds. ``spell``: a document as a row."""

    kind: Kind
    spell: Callable[[Document], Spelled]


def messages_row(document: Document) -> Spelled:
    """OpenAI's spelling; a loss weight stands in its message."""
    chat = _chat(document, "messages")
    messages = _spelled(chat.messages)
    if chat.weights is not None:
        for message, weight in zip(messages, chat.weights, strict=True):
            if message["role"] == "assistant" and weight != 1:
                message["weight"] = weight
    return {"messages": messages, **_beside(chat)}


def sharegpt_row(document: Document) -> Spelled:
    """ShareGPT's spelling, with LLaMA-Factory's turns for calls (function_call) and results (observation)."""
    chat = _chat(document, "sharegpt")
    if chat.weights is not None:
        raise _unsaid(chat.where, "ShareGPT has no loss weights")
    return {"conversations": [_sharegpt_turn(turn, chat.where) for turn in chat.messages], **_beside(chat)}


def _sharegpt_turn(message: Message, where: str) -> Spelled:
    role, calls = message["role"], message.get("tool_calls")
    other = message.keys() - {"role", "content", "tool_calls"}
    if other or role not in SHAREGPT:
        what = f"`{sorted(other)[0]}` of a message" if other else f"the role `{role}`"
        raise _unsaid(where, f"ShareGPT has no {what}")
    if not calls:
        return {"from": SHAREGPT[role], "value": message["content"]}
    if message["content"] or any("id" in call for call in calls):
        what = "text beside a tool call" if message["content"] else "ids of tool calls"
        raise _unsaid(where, f"ShareGPT has no {what}")
    functions = [call["function"] for call in calls]
    return {
        "from": "function_call",
        "value": json.dumps(functions[0] if len(functions) == 1 else functions, ensure_ascii=False),
    }


def alpaca_row(document: Document) -> Spelled:
    """Instruction and output, earlier exchanges as `history`."""
    chat = _chat(document, "alpaca")
    turns = list(chat.messages)
    row: Spelled = {}
    if turns[0]["role"] == "system":
        row["system"] = turns.pop(0)["content"]
        if not row["system"]:
            raise _unsaid(chat.where, "an empty system prompt is none in Alpaca")
    roles = [turn["role"] for turn in turns]
    if roles != ["user", "assistant"] * (len(turns) // 2) or not turns:
        raise _unsaid(
            chat.where, f"Alpaca's turns are the user's and the assistant's, and these are {', '.join(roles)}"
        )
    if chat.tools or chat.weights is not None or any(turn.keys() > {"role", "content"} for turn in turns):
        raise _unsaid(chat.where, "Alpaca has text only: no tools, no weights, no other keys of messages")
    texts = [turn["content"] for turn in turns]
    row.update(instruction=texts[-2], input="", output=texts[-1])
    if len(texts) > 2:
        row["history"] = [texts[at : at + 2] for at in range(0, len(texts) - 2, 2)]
    return {**row, **_beside(chat)}


def prompt_completion_row(document: Document) -> Spelled:
    """Plain text, or messages of which the last one is learned."""
    if isinstance(document, Completion):
        key = {} if document.answer is None else {"answer": document.answer}
        return {"prompt": document.prompt, "completion": document.completion, **key}
    chat = _chat(document, "prompt-completion")
    before = chat.messages[:-1]
    spoken = [at for at, message in enumerate(before) if message["role"] == "assistant"]
    learned = chat.weights or [1.0] * len(chat.messages)
    if chat.messages[-1]["role"] != "assistant" or learned[-1] != 1 or any(learned[at] for at in spoken):
        raise _unsaid(chat.where, "only the last turn of a prompt and its completion is learned, and it with weight 1")
    return {"prompt": _spelled(before), "completion": _spelled(chat.messages[-1:]), **_beside(chat)}


def preference_row(document: Document) -> Spelled:
    """An explicit prompt, both answers, and their scores where they have them."""
    if not isinstance(document, Preference):
        raise _other(document, "preference")
    row: Spelled = {name: _said(getattr(document, name)) for name in ("prompt", "chosen", "rejected")}
    for name in ("chosen_score", "rejected_score"):
        if getattr(document, name) is not None:
            row[name] = getattr(document, name)
    if document.tools:
        row["tools"] = document.tools
    return row


def feedback_row(document: Document) -> Spelled:
    """A prompt, an answer, and whether it was wanted."""
    if not isinstance(document, Feedback):
        raise _other(document, "feedback")
    return {"prompt": _said(document.prompt), "completion": _said(document.completion), "label": document.label}


def text_row(document: Document) -> Spelled:
    """Raw text."""
    if not isinstance(document, Text):
        raise _other(document, "text")
    return {"text": document.text}


SPELLINGS: dict[str, Spelling] = {
    "messages": Spelling("demonstration", messages_row),
    "sharegpt": Spelling("demonstration", sharegpt_row),
    "alpaca": Spelling("demonstration", alpaca_row),
    "prompt-completion": Spelling("demonstration", prompt_completion_row),
    "preference": Spelling("preference", preference_row),
    "feedback": Spelling("feedback", feedback_row),
    "text": Spelling("demonstration", text_row),
}
"""The formats that can be written, by their name in the table of formats."""


def _chat(document: Document, format: str) -> Conversation:
    if not isinstance(document, Conversation):
        raise _other(document, format)
    return document


def _beside(chat: Conversation) -> Spelled:
    """Tools and the checkable answer, where there are any."""
    row: Spelled = {"tools": chat.tools} if chat.tools else {}
    return row if chat.answer is None else {**row, "answer": chat.answer}


def _said(said: Said) -> Said:
    return said if isinstance(said, str) else _spelled(said)


def _spelled(messages: Sequence[Message]) -> list[Message]:
    """Messages with the arguments of tool calls as JSON text, as OpenAI's API has them: in a column of a Parquet file
    objects of different functions would get each other's keys."""
    spelled = []
    for message in messages:
        copy = dict(message)
        if calls := message.get("tool_calls"):
            copy["tool_calls"] = [
                {
                    **call,
                    "function": {
                        **call["function"],
                        "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
                    },
                }
                for call in calls
            ]
        spelled.append(copy)
    return spelled


def _unsaid(where: str, what: str) -> RequestError:
    return bad(where, f"cannot be written so: {what}", _MESSAGES)


def _other(document: Document, format: str) -> RequestError:
    """A document of another sort than the format holds."""
    names = {Completion: "a plain prompt and completion, without a template", Text: "raw text", Conversation: "a chat"}
    what = names.get(type(document), f"a {type(document).__name__.lower()}")
    instead = "Choose another format."
    if isinstance(document, Completion):
        instead = (
            "Write format=prompt-completion, or read it as a chat: data.columns={question: prompt, answer: completion}."
        )
    elif isinstance(document, Text):
        instead = "Write format=text."
    elif isinstance(document, Conversation):
        instead = "Write format=messages."
    return bad(document.where, f"is {what}, which format={format} cannot say", instead)
