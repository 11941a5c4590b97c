"""The short way to rendered conversations: for each sequence of roles the frame around the contents is kept.

Turn by turn every answer costs two texts. But a template that puts contents into a fixed frame writes the same frame
for every row of the same roles: it is rendered once with marks for contents, turn by turn, and the pieces between the
marks and the edges of the spans are kept. A real row is then put together from the pieces, the template renders it
once, and where both texts are equal the spans are known. Everything else goes turn by turn: other texts, tools, tool
calls, reasoning, and contents with anything in them that the template looks for. The first rows of each sequence of
roles and then one in 64 are rendered both ways; a difference is the end of the short way.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeAlias

from alignkit.data.encoding.incremental import Incremental
from alignkit.data.encoding.rendered import Rendered
from alignkit.data.encoding.templating import apply_template, compiled_template, within_limits
from alignkit.data.rows import Conversation
from alignkit.errors import Fault, RunError

FIRST = 3
"""Rows of a sequence of roles that go turn by turn before an outline is made: rare sequences are not worth one."""

CHECKED = 64
"""One row in so many is rendered both ways."""

MOST = 1_000
"""Outlines that are kept; further sequences of roles go turn by turn."""

_MARK = re.compile("\uf8f1(\\d+)\uf8f2")
_TESTED = re.compile(
    r"""(['"])([^'"]+)\1\s+(?:not\s+)?in\b"""
    r"""|\.\s*(?:startswith|endswith|r?split|r?find|r?index|count|replace|r?partition)\(\s*(['"])([^'"]+)\3"""
)
_KEYS = frozenset(
    ("role", "content", "tool_calls", "tool_call_id", "name", "reasoning_content", "thinking", "arguments", "function")
)

Key: TypeAlias = "tuple[tuple[str, ...], tuple[float, ...] | None]"
"""Roles and weights: what decides a frame."""


class OutlinesDiffer(RunError):
    """The short way was wrong about a row after others had been handed out, which must be rendered anew without it."""


@dataclass(slots=True)
class Frame:
    """One text of a conversation: ``pieces`` stand around its contents, which the template has in this ``order``.

    ``edges``: of each span (contents before its start, characters of the frame before it, the same two of its end).
    ``tail``: what the template writes after the text. ``row``: the text with marks; its other fields are those of every
    row with these roles.
    """

    pieces: list[str]
    order: list[int]
    edges: list[tuple[int, int, int, int]]
    tail: str
    row: Rendered

    def fill(self, contents: Sequence[str], chat: Conversation) -> Rendered:
        """The text of a real row."""
        placed = [contents[index] for index in self.order]
        parts = [""] * (2 * len(placed) + 1)
        parts[0::2], parts[1::2] = self.pieces, placed
        before = [0, *accumulate(map(len, placed))]
        spans = [(start + before[m], end + before[n]) for m, start, n, end in self.edges]
        row = self.row
        return Rendered("".join(parts), spans, chat.where, row.eos, False, chat, row.turn, row.span_weights)


@dataclass(slots=True)
class Outline:
    """The frames of one sequence of roles, one per text. ``trimmed``: contents whose outer white space is taken off.

    ``notes``: what one row counts. ``used``: rows that were made with it.
    """

    frames: list[Frame]
    trimmed: frozenset[int]
    notes: Counter[str]
    used: int = 0


class Outlines:
    """Renders conversations as ``incremental`` does, and counts on its notes; ``on=False``: all go turn by turn."""

    def __init__(self, incremental: Incremental, *, on: bool = True) -> None:
        template = incremental.tokenizer.chat_template
        self.incremental = incremental
        self.on = on and incremental.train_on != "all" and bool(template)
        self.tested = looked_for(str(template))
        self.handed_out = 0
        """Rows of earlier calls that went the short way without being checked."""
        self.template = compiled_template(incremental.tokenizer)
        self._seen: Counter[Key] = Counter()
        self._outlines: dict[Key, Outline | None] = {}

    def render(self, chats: Sequence[Conversation]) -> list[list[Rendered] | Fault]:
        """One list of texts for each conversation, or what is wrong with it.

        Raises RequestError when there is no template, and OutlinesDiffer.
        """
        notes = self.incremental.notes
        before = Counter(notes)
        done: dict[int, list[Rendered] | Fault] = {}
        unsure: dict[int, list[Rendered]] = {}
        with within_limits(len(chats)):
            made = [*self._short(chats)]
        for number, rows, outline in made:
            if outline.used % CHECKED == 0:
                unsure[number] = rows
            else:
                done[number] = rows
                notes.update(outline.notes)
            outline.used += 1
        rest = [number for number in range(len(chats)) if number not in done]
        short = len(done)
        done.update(zip(rest, self.incremental.render([chats[number] for number in rest]), strict=True))
        wrong = next((number for number, rows in unsure.items() if rows != done[number]), None)
        if wrong is None:
            self.handed_out += short
            return [done[number] for number in range(len(chats))]
        self.on = False
        if self.handed_out:
            raise OutlinesDiffer(
                f"{chats[wrong].where}: the model's chat template writes this row otherwise than {self.handed_out:,} "
                "rows before it with the same roles"
            )
        notes.clear()
        notes.update(before)
        return self.incremental.render(chats)

    def _short(self, chats: Sequence[Conversation]) -> Iterator[tuple[int, list[Rendered], Outline]]:
        """(number, its texts, how they were made) of every conversation whose outline the template confirms."""
        for number, chat in enumerate(chats if self.on else ()):
            outline = self._outline(chat)
            if outline is None:
                continue
            contents = [message["content"] for message in chat.messages]
            for index in outline.trimmed:
                contents[index] = contents[index].strip()
            rows = [frame.fill(contents, chat) for frame in outline.frames]
            try:
                texts = [self.template(chat.messages[: row.turn + 1]) for row in rows]
            except Exception:  # the template refuses the row: turn by turn it is named
                continue
            if texts == [row.text + frame.tail for row, frame in zip(rows, outline.frames, strict=True)]:
                yield number, rows, outline

    def _outline(self, chat: Conversation) -> Outline | None:
        """The outline for a conversation; None where it has to go turn by turn."""
        messages = chat.messages
        if chat.tools:
            return None
        for message in messages:
            if len(message) != 2 or type(message.get("content")) is not str:
                return None
        for text in self.tested:
            if any(text in message["content"] for message in messages):
                return None
        key = (tuple([message["role"] for message in messages]), chat.weights)
        if key in self._outlines:
            return self._outlines[key]
        if len(self._seen) > 100 * MOST:
            self._seen.clear()
        self._seen[key] += 1
        if self._seen[key] <= FIRST or len(self._outlines) >= MOST:
            return None
        found = self._outlines[key] = self._make(key)
        return found

    def _make(self, key: Key) -> Outline | None:
        """Render marks in place of contents, turn by turn; None when the template has no fixed frame for them."""
        roles, weights = key
        messages = [{"role": role, "content": f"\uf8f1{index}\uf8f2"} for index, role in enumerate(roles)]
        spaced = [{**message, "content": f" {message['content']} "} for message in messages]
        notes = self.incremental.notes
        before = Counter(notes)
        [rows] = self.incremental.render([Conversation(messages, "outline", weights=weights)])
        counted = notes - before
        notes.clear()
        notes.update(before)
        if isinstance(rows, Fault) or not rows:
            return None
        wanted = [messages[: row.turn + 1] for row in rows]
        try:
            *fulls, wide = apply_template(self.incremental.tokenizer, [*wanted, spaced[: len(wanted[-1])]], False)
        except Exception:  # a template is the model author's program: it may raise anything
            return None
        frames = [_frame(row, full) for row, full in zip(rows, fulls, strict=True)]
        trimmed = frozenset(i for i, message in enumerate(spaced[: len(wanted[-1])]) if message["content"] not in wide)
        whole = [frame for frame in frames if frame is not None]
        return Outline(whole, trimmed, counted) if len(whole) == len(frames) else None


def _frame(row: Rendered, full: str) -> Frame | None:
    """The frame around the marks of a text; None when the text is no plain frame around all contents."""
    marks = list(_MARK.finditer(row.text))
    order = [int(mark[1]) for mark in marks]
    tail = full[len(row.text) :]
    if set(order) != set(range(row.turn + 1)) or not full.startswith(row.text) or _MARK.search(tail):
        return None
    edges = []
    for span in row.spans or []:
        numbers = []
        for at in span:
            if any(mark.start() < at < mark.end() for mark in marks):
                return None
            passed = [mark for mark in marks if mark.end() <= at]
            numbers += [len(passed), at - sum(len(mark[0]) for mark in passed)]
        edges.append((numbers[0], numbers[1], numbers[2], numbers[3]))
    return Frame(_MARK.split(row.text)[0::2], order, edges, tail, row)


def looked_for(template: str) -> tuple[str, ...]:
    """What a template looks for in texts (`'</think>' in content`): such contents may change its frame.

    White space and the names of a message's keys are left out. This only says which rows cannot go the short way for
    sure; that a frame did change is seen by comparing texts.
    """
    found = {match[2] or match[4] for match in _TESTED.finditer(template)} - _KEYS
    return tuple(sorted(text for text in found if text.strip() and "\\" not in text))
