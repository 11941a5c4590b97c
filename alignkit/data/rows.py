"""What travels through this room: a row as read, a document as understood, a document as tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

Message: TypeAlias = dict[str, str]
"""`{"role": "user", "content": "…"}`: what a chat template takes."""

UNTRAINED = -100
"""Label of a token that carries no loss."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it stands in its source. ``where`` is for people: ``"chats.jsonl line 17"``."""

    values: dict[str, Any]
    where: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns to be rendered with the model's chat template; ``answer`` is what a checker compares with."""

    messages: list[Message]
    where: str
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A plain prompt and its continuation: no template, the completion and its eos carry loss."""

    prompt: str
    completion: str
    where: str
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """Raw text: every token carries loss."""

    text: str
    where: str


Document: TypeAlias = Conversation | Completion | Text


@dataclass(slots=True)
class Encoded:
    """A row as tokens. ``labels`` equal ``input_ids`` where a token is trained and are -100 elsewhere.

    The first label is always -100: nothing stands before the first token that could predict it.
    """

    input_ids: list[int]
    labels: list[int]
    where: str

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def trained(self) -> int:
        """How many tokens carry loss."""
        return len(self.labels) - self.labels.count(UNTRAINED)


@dataclass(slots=True)
class HeldOut(Encoded):
    """A row that is kept out of training, with what is needed to generate an answer and check it.

    ``prompt``: the messages before the last answer, a plain string (to be tokenised without a template),
    or None for raw text. ``reference``: the answer to compare with. ``checkable``: whether comparing makes
    sense (the row has an `answer` column, or its answer is a JSON object).
    """

    prompt: list[Message] | str | None = None
    reference: str | None = None
    checkable: bool = False
