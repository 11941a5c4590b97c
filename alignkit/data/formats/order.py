"""Whose turn it is: the order that every conversation must have, and what an answer must be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from alignkit.data.formats.cells import bad, shown
from alignkit.data.rows import Conversation, Message

CUT = "turns after the last answer left out"
SYSTEM = ("system", "developer")
OPEN = ("user", "tool")
"""Roles whose turn calls for an answer."""
_LEAVE = "Mend the row, or leave such rows out with data.on_error=skip."


def check_order(messages: Sequence[Message], where: str) -> None:
    """A system turn may begin; then the user and the assistant take turns, and tool results follow the assistant's
    call. Raises RequestError naming the first turn that is out of order."""
    before = ""
    for number, message in enumerate(messages, 1):
        role = message["role"]
        if role == "user":
            if before == "user":
                raise _odd(where, number, "is a second user turn in a row")
        elif role == "assistant":
            if before not in OPEN:
                what = "is a second assistant turn in a row" if before == "assistant" else "speaks before any user turn"
                raise _odd(where, number, f"is the assistant's and {what}" if before != "assistant" else what)
        elif role == "tool":
            if before not in ("assistant", "tool") or not _called(messages, number - 1):
                raise _odd(where, number, "is a tool's result, and no turn before it calls a tool")
        elif before:
            raise _odd(where, number, f"is a {role} turn, and only the first turn may be one")
        before = role


def _odd(where: str, number: int, what: str) -> Exception:
    return bad(f"{where}, turn {number}", what, _LEAVE)


def _called(messages: Sequence[Message], at: int) -> bool:
    """Whether the tool result at `at` answers a call of the assistant's turn before it. A call may stand in the text
    (Hermes writes `<tool_call>{…}`), so a text with a bracket in it counts."""
    start = at - 1
    while messages[start]["role"] == "tool":
        start -= 1
    caller = messages[start]
    calls = caller.get("tool_calls")
    if not calls:
        return any(bracket in caller["content"] for bracket in "{[<")
    wanted = messages[at].get("tool_call_id")
    known = {call["id"] for call in calls if "id" in call}
    return wanted is None or not known or wanted in known


def answered(conversation: Conversation, notes: Counter[str]) -> Conversation:
    """The conversation up to its last answer. Raises RequestError where no answer can be learned, or one is empty.

    What stands after the last answer is cut and counted in `notes`.
    """
    messages, weights, where = conversation.messages, conversation.weights, conversation.where
    end = len(messages)
    while end and messages[end - 1]["role"] != "assistant":
        end -= 1
    if not end:
        raise bad(where, "has no answer to learn from: no turn is the assistant's", _LEAVE)
    for number, message in enumerate(messages[:end]):
        if message["role"] == "assistant" and (weights is None or weights[number] > 0):
            check_answer(message, f"{where}, turn {number + 1}")
    if weights is not None and not any(weights[:end]):
        raise bad(where, "has no answer to learn from: every assistant turn has weight 0", _LEAVE)
    if end == len(messages):
        return conversation
    notes[CUT] += 1
    return replace(conversation, messages=messages[:end], weights=weights[:end] if weights is not None else None)


def check_answer(message: Message, where: str) -> None:
    """An answer says something, or calls a tool."""
    content = message["content"]
    if (not content or content.isspace()) and not message.get("tool_calls"):
        more = " (it has reasoning only)" if message.get("reasoning_content") else ""
        raise bad(where, f"is an empty answer{more}", "Write the answer, or leave such rows out: data.on_error=skip.")


def check_prompt(messages: Sequence[Message], where: str, column: str) -> None:
    """A prompt ends where an answer is due."""
    if not messages or messages[-1]["role"] not in OPEN:
        last = f"the {messages[-1]['role']}'s turn {shown(messages[-1]['content'], 30)}" if messages else "nothing"
        raise bad(where, f"the prompt (column `{column}`) ends with {last}", "It must end with a user's turn.")
