"""One answer in rendered text: where it ends, whether all of it is there, and what to do when reasoning is not."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from alignkit.data.encoding.templating import apply_template, special_names
from alignkit.data.rows import Message
from alignkit.errors import Fault

MARK = "\uf8f0"
"""Content that no template writes itself (a private-use character)."""

REASONING = ("reasoning_content", "thinking", "reasoning")
"""Keys under which a message holds its reasoning; transformers hands it to the template under all of them."""

IN_ANSWERS = re.compile(
    r"[<\[|{/\\]*(think|thinking|thought|reason|reasoning|tool_calls?|answer)[>\]|}]*", re.IGNORECASE
)
"""Special tokens that a model says itself, so that they may stand in an answer's text."""

_THOUGHT = re.compile(r"</?think(?:ing)?>")
_OPENED = re.compile(r"<think(?:ing)?>\s*$")


class Ending:
    """Where answers end in one template: learned from a short conversation, else found after the answer's text."""

    def __init__(self, tokenizer: Any, special: re.Pattern[str]) -> None:
        self.special = special
        self.closing: str | None = None
        """The end of turn and what the template writes after it at the end of a conversation."""
        self.tail = 0
        """Characters of `closing` after the end of turn."""
        probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": MARK}]
        try:
            [text] = apply_template(tokenizer, [probe], False)
        except Exception:  # a template may refuse the probe: then there is only the text of each answer to go by
            return
        at = text.rfind(MARK)
        match = special.search(text, at + len(MARK)) if at >= 0 else None
        if match is not None:
            self.closing = text[match.start() :]
            self.tail = len(text) - match.end()

    def find(self, full: str, start: int, message: Message) -> tuple[int, bool]:
        """Where the answer's end of turn ends in `full`, and whether it is a special token.

        ``full``: the template's text up to this answer; ``start``: where the answer begins in it.
        """
        if self.closing is not None and full.endswith(self.closing) and len(full) - len(self.closing) >= start:
            return len(full) - self.tail, True
        if not message.get("tool_calls") and not reasoning(message):
            body = content(message).strip()
            at = full.find(body, start)
            if at >= 0 and (match := self.special.search(full, at + len(body))):
                return match.end(), True
        end = len(full.rstrip())
        return end, any(match.end() == end for match in self.special.finditer(full, max(start, end - 128), end))


def agreement(left: str, right: str) -> int:
    """How many characters two texts have in common at their beginning."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if left[low:middle] == right[low:middle] else (low, middle - 1)
    return low


def content(message: Message) -> str:
    """The text of a message; empty where it has none (a message that only calls tools)."""
    text = message.get("content")
    return text if isinstance(text, str) else ""


def reasoning(message: Message) -> str:
    """The reasoning of a message that has it apart from its text; else empty."""
    return next((str(message[key]) for key in REASONING if message.get(key)), "")


def holds(region: str, text: str) -> bool:
    """Whether `text` stands in `region`, whatever became of its white space."""
    body = text.strip()
    return body in region or "".join(body.split()) in "".join(region.split())


def lost_calls(message: Message, region: str) -> list[str]:
    """Names of the functions that a message calls and its text does not name."""
    calls = message.get("tool_calls") or []
    names = [str(call.get("function", call).get("name", "")) for call in calls if isinstance(call, dict)]
    return [name for name in names if name not in region]


def lost_answer(message: Message, region: str) -> bool:
    """Whether the message's text is not (all) there; reasoning inside it may have been laid out anew."""
    text = content(message)
    if holds(region, text):
        return False
    return not all(holds(region, piece) for piece in _THOUGHT.split(text))


def lost_reasoning(message: Message, region: str) -> bool:
    """Whether a message has reasoning apart from its text, and that is not there."""
    return not holds(region, reasoning(message))


def rebuilt(prompt: str, message: Message) -> str | None:
    """What a model says after a generation prompt when the template drops its reasoning; None when that is unknown.

    Templates of the DeepSeek-R1 kind drop what stands before `</think>` even in the last turn, since in serving the
    model has written it; in training that text must be put together here: after ``prompt`` comes the reasoning,
    without the opening `<think>` where the prompt has it, then `</think>` and the answer.
    """
    text, thought = content(message), reasoning(message)
    opened = _OPENED.search(prompt) is not None
    if thought:
        closed = f"{thought.strip()}\n</think>\n\n{text.lstrip()}"
        return closed if opened else f"<think>\n{closed}"
    if "</think" not in text:
        return None
    return re.sub(r"^\s*<think(?:ing)?>\s*", "", text) if opened else text


def _beside(message: Message) -> str:
    """What a template may write of a message beside its text: its reasoning, its calls."""
    calls = message.get("tool_calls")
    return reasoning(message) + (json.dumps(calls, ensure_ascii=False, default=str) if calls else "")


class Foreign:
    """Finds special tokens inside messages: they would be read as the template's own."""

    def __init__(self, tokenizer: Any) -> None:
        names = sorted(special_names(tokenizer), key=len, reverse=True)
        ours = [name for name in names if not IN_ANSWERS.fullmatch(name)]
        self.anywhere = _pattern(names)
        self.in_answers = _pattern(ours)
        self.firsts = sorted({name[0] for name in names})
        """A message without any of these characters holds no special token: what is looked at first, being fast."""

    def fault(self, messages: Sequence[Message], where: str, tools: object = None) -> Fault | None:
        """The first special token inside a message, its calls, or the tools on offer; or None."""
        for first in self.firsts:
            for message in messages:
                if first in (message.get("content") or "") or (len(message) > 2 and first in _beside(message)):
                    return self._search(messages, where) or self._in_tools(tools, where)
        return self._in_tools(tools, where)

    def _in_tools(self, tools: object, where: str) -> Fault | None:
        match = self.anywhere.search(json.dumps(tools, ensure_ascii=False, default=str)) if tools else None
        if match is None:
            return None
        what = f"the tools on offer hold template text `{match.group()}`; the model would read it as a turn's edge"
        return Fault(where=where, what=what, instead="Take it out of their descriptions.")

    def _search(self, messages: Sequence[Message], where: str) -> Fault | None:
        for number, message in enumerate(messages, 1):
            pattern = self.in_answers if message["role"] == "assistant" else self.anywhere
            match = pattern.search(content(message)) or pattern.search(_beside(message))
            if match is not None:
                return Fault(
                    where=where,
                    what=f"message {number} ({message['role']}) already holds template text `{match.group()}`, at "
                    f"character {match.start() + 1}; the model would read it as the end or the beginning of a turn",
                    instead="Give the plain text of each turn and leave the template to the model, or take that text "
                    "out.",
                )
        return None


def _pattern(names: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, names)) if names else r"(?!)")
