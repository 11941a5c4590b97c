"""Lists of messages, in OpenAI's spelling or ShareGPT's, become one; what does not fit is named by its turn."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from alignkit.data.formats.cells import as_bool, as_number, bad, count, kind_of, shown
from alignkit.data.formats.tools import old_call, read_calls, written_calls
from alignkit.data.rows import Message

ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
SPOKEN = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
    "ipython": "tool",
}
"""Other names that data sets have for the roles (`function_call` is an assistant's turn whose text is the call)."""

WEIGHTS = ("weight", "train", "trainable", "loss")
"""Keys of a message that say how much it counts in the loss: a number, or true/false."""
HEAVIEST = 1_000_000
"""A weight that no row needs; far beyond it a number is none any more among the 32 bits of the loss."""
REASONING = ("reasoning_content", "reasoning", "thinking")
READ = frozenset(
    {"role", "content", "from", "value", "name", "tool_calls", "tool_call_id", "function_call", *WEIGHTS, *REASONING}
)


class Turns(NamedTuple):
    """Messages, and a loss weight for each where the row gives any that differs from the rule (assistant turns: 1)."""

    messages: list[Message]
    weights: list[float] | None


def is_messages(value: Any) -> bool:
    """Whether a cell looks like a list of messages (a CSV cell may hold the list as JSON)."""
    if isinstance(value, str):
        if not value.lstrip().startswith("["):
            return False
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return False
        return isinstance(value, list) and bool(value) and one_message(value[0])
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def one_message(value: Any) -> bool:
    """Whether a cell is a single message, as LLaMA-Factory writes chosen and rejected."""
    return isinstance(value, Mapping) and ("role" in value or "from" in value)


def read_turns(value: Any, column: str, where: str, notes: Counter[str]) -> Turns:
    """`value` as messages with role and content. Raises RequestError naming row, turn and what was found.

    ``notes`` counts what is left unread without harm. The messages of a row in OpenAI's spelling are its own objects.
    """
    if isinstance(value, str):
        value = _parsed(value, column, where)
    if one_message(value):
        value = _columns_of_messages(value) or [value]
    if not isinstance(value, list):
        raise bad(where, f"column `{column}` holds {kind_of(value)}, and must be a list of messages")
    if not value:
        raise bad(where, f"column `{column}` is an empty list", "A row needs a question and an answer; remove the row.")
    messages: list[Message] = []
    weights: list[float] | None = None
    for turn in value:
        # Most messages are {"role": …, "content": …} and nothing else: taken as they are.
        if (
            type(turn) is dict
            and len(turn) == 2
            and type(turn.get("role")) is str
            and turn["role"] in ROLES
            and type(turn.get("content")) is str
        ):
            messages.append(turn)
            continue
        message, weight = _message(turn, f"{where}, turn {len(messages) + 1} of `{column}`", notes)
        messages.append(message)
        if weight is not None:
            if weights is None:
                weights = [float("nan")] * len(value)
            weights[len(messages) - 1] = weight
    return Turns(messages, _settled(messages, weights, notes))


def _columns_of_messages(value: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """A conversation held as one list per key, as `datasets` stores a Sequence of objects; None for anything else."""
    lists = list(value.values())
    if not all(isinstance(column, list) and len(column) == len(lists[0]) for column in lists):
        return None
    return [dict(zip(value, turn, strict=True)) for turn in zip(*lists, strict=True)]


def _parsed(text: str, column: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        what = f"column `{column}` holds text where a list of messages was expected: {shown(text)}"
        raise bad(where, what, 'Write [{"role": "user", "content": …}, …].') from None


def _settled(messages: list[Message], weights: list[float] | None, notes: Counter[str]) -> list[float] | None:
    """A weight for every message: what was given for an assistant's turn, 1 where nothing was, 0 for other turns; None
    where that is the rule anyway."""
    if weights is None:
        return None
    settled = []
    for message, weight in zip(messages, weights, strict=True):
        if message["role"] == "assistant":
            settled.append(1.0 if weight != weight else weight)
        else:
            settled.append(0.0)
            if weight > 0:
                notes["rows ask to train on a turn that is not the assistant's; only data.train_on=all does that"] += 1
    spoken = [w for message, w in zip(messages, settled, strict=True) if message["role"] == "assistant"]
    return None if all(weight == 1 for weight in spoken) else settled


def _message(turn: Any, where: str, notes: Counter[str]) -> tuple[Message, float | None]:
    """One message in our spelling, and its loss weight where it gives one."""
    if not isinstance(turn, Mapping):
        raise bad(where, f"is {kind_of(turn)}, and must be an object with role and content: {shown(turn)}")
    if turn.get("role") is not None or "from" not in turn:
        role, content = turn.get("role"), turn.get("content")
    else:
        role, content = turn["from"], turn.get("value")
    if "role" not in turn and "from" not in turn:
        raise bad(
            where,
            f"has the keys {', '.join(map(str, turn)) or '(none)'}",
            'Write {"role": …, "content": …}, or ShareGPT\'s {"from": …, "value": …}.',
        )
    calls: list[dict[str, Any]] | None = None
    if role == "function_call":
        role, content, calls = "assistant", "", written_calls(content, where)
    role = SPOKEN.get(role, role) if isinstance(role, str) else role
    if not isinstance(role, str) or role not in ROLES:
        raise bad(
            where, f"has the unknown role {shown(role)}", "Known roles: system, user, assistant, tool, human, gpt."
        )
    if turn.get("tool_calls"):
        calls = read_calls(turn["tool_calls"], where)
    elif turn.get("function_call"):
        calls = [old_call(turn["function_call"], where)]
    if calls and role != "assistant":
        raise bad(where, f"is the {role}'s and calls a tool", "Only the assistant calls tools.")
    message: Message = {"role": role, "content": "" if content is None and calls else _content(content, where)}
    if calls:
        message["tool_calls"] = calls
    _extras(turn, message, where)
    if not turn.keys() <= READ:
        for key in sorted(str(key) for key in turn.keys() - READ if turn[key] not in (None, "", [], {})):
            count(notes, f"messages have the key `{key}`, which is not read")
    return message, _weight(turn, where)


def _extras(turn: Mapping[str, Any], message: Message, where: str) -> None:
    """The keys a template may read beside role and content, where they are filled."""
    for key in ("name", "tool_call_id"):
        value = turn.get(key)
        if value not in (None, ""):
            if not isinstance(value, str):
                raise bad(where, f"has {kind_of(value)} as its `{key}`", "Write text.")
            message[key] = value
    for key in REASONING:
        value = turn.get(key)
        if value in (None, ""):
            continue
        if not isinstance(value, str):
            raise bad(where, f"has {kind_of(value)} as its `{key}`", "Write text.")
        if message["role"] != "assistant":
            raise bad(
                where, f"is the {message['role']}'s and has `{key}`", "Only the assistant's turns have reasoning."
            )
        message["reasoning_content"] = value


def _weight(turn: Mapping[str, Any], where: str) -> float | None:
    """The loss weight a message gives, by any of its names."""
    found: dict[str, float] = {}
    for key in WEIGHTS:
        value = turn.get(key)
        if value is None:
            continue
        flag = as_bool(value)
        weight = as_number(value) if flag is None else float(flag)
        if weight is None or not 0 <= weight <= HEAVIEST:
            instead = f"Write true, false, or a number from 0 to {HEAVIEST:,}."
            raise bad(where, f"has {shown(value)} as its `{key}`", instead)
        found[key] = weight
    if len(set(found.values())) > 1:
        said = " and ".join(f"{key}={turn[key]}" for key in found)
        raise bad(where, f"says {said}, and these do not agree", "Keep one of them.")
    return next(iter(found.values()), None)


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
