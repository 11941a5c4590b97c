"""A document as text with the stretches that carry loss, ready to be tokenised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from alignkit.data.encoding.templating import Tools
from alignkit.data.encoding.turns import content
from alignkit.data.rows import Completion, Conversation, Demonstration, Message, Prompt

TrainOn: TypeAlias = Literal["assistant", "last", "all"]
"""Whose tokens carry loss: every assistant turn, the last one only, or the whole row."""


@dataclass(slots=True)
class Rendered:
    """Text to be tokenised. ``spans``: the character ranges [start, end) that carry loss; None: all of it.

    ``span_weights``: the loss weight of each span, where one differs from 1. ``eos``: the text does not end its turn
    itself, so the eos token is appended (and trained). ``plain``: no template wrote this, so the tokenizer's own prefix
    (a BOS, if it adds one) belongs before it. ``document`` and ``turn``: what this is a text of, and the index of its
    last trained message.
    """

    text: str
    spans: list[tuple[int, int]] | None
    where: str
    eos: bool = False
    plain: bool = False
    document: Demonstration | Prompt | None = None
    turn: int = 0
    span_weights: list[float] | None = None

    @property
    def prompt(self) -> list[Message] | str | None:
        """What to generate from to be compared with `answer`; None for raw text."""
        document = self.document
        if isinstance(document, Conversation):
            return document.messages[: self.turn]
        return document.prompt if isinstance(document, (Completion, Prompt)) else None

    @property
    def answer(self) -> str | None:
        """The last trained answer."""
        if isinstance(self.document, Conversation):
            return content(self.document.messages[self.turn])
        return self.document.completion if isinstance(self.document, Completion) else None

    @property
    def tools(self) -> Tools:
        """What the prompt offers to call."""
        return self.document.tools if isinstance(self.document, (Conversation, Prompt)) else None
