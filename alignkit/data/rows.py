"""What travels through this room: a row as read, a document as understood, a document as tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from alignkit.config.recipe import Kind as Kind
from alignkit.errors import Fault

Message: TypeAlias = dict[str, Any]
"""`{"role": "user", "content": "…"}`: what a chat template takes. Where the row has them also `tool_calls` (OpenAI's
list), `tool_call_id`, `name` and `reasoning_content`."""

Said: TypeAlias = "list[Message] | str"
"""A prompt or an answer: messages to be rendered with a template, or plain text without one."""

UNTRAINED = -100
"""Label of a token that carries no loss."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it stands in its source. ``where`` is for people: ``"chats.jsonl line 17"``."""

    values: dict[str, Any]
    where: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns to be rendered with the model's chat template; ``answer`` is what a checker compares with.

    ``tools``: the functions on offer, as JSON schemas, for the template. ``weights``: one loss weight per message
    (0: context only), of which those of assistant turns count; None: 1 for each of them.
    """

    messages: list[Message]
    where: str
    answer: str | None = None
    tools: list[dict[str, Any]] | None = None
    weights: tuple[float, ...] | None = None


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


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to one prompt, the better one first; scores where the row gives them."""

    prompt: Said
    chosen: Said
    rejected: Said
    where: str
    chosen_score: float | None = None
    rejected_score: float | None = None
    tools: list[dict[str, Any]] | None = None
    group: str | None = None
    """Which part of a benchmark the pair belongs to (RewardBench's `subset`)."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """One answer and whether it was wanted."""

    prompt: Said
    completion: Said
    label: bool
    where: str


@dataclass(frozen=True, slots=True)
class Scored:
    """One answer and what it is worth; the higher the better."""

    prompt: Said
    completion: Said
    score: float
    where: str


@dataclass(frozen=True, slots=True)
class Ranking:
    """Answers to one prompt, the best first; ``scores`` in the same order where the row gives them."""

    prompt: Said
    answers: tuple[Said, ...]
    where: str
    scores: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt to answer; ``answer`` is what a checker compares with. ``columns``: the row as it stood, for rewards
    that read other columns of it; only where a stage asked for prompts."""

    prompt: Said
    where: str
    answer: str | None = None
    tools: list[dict[str, Any]] | None = None
    columns: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text and its class."""

    text: str
    label: str
    where: str


Demonstration: TypeAlias = Conversation | Completion | Text
Comparison: TypeAlias = Preference | Feedback | Scored | Ranking
"""Answers that were judged."""
Document: TypeAlias = Demonstration | Comparison | Prompt | Labelled


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that cannot be used, and why. ``raw``: as it was found, shortened to 2,000 characters. ``rest``: what
    follows it in the file, or all of the file, cannot be read either."""

    fault: Fault
    raw: str
    rest: bool = False


@dataclass(slots=True)
class Encoded:
    """A row as tokens. ``labels`` equal ``input_ids`` where a token is trained and are -100 elsewhere.

    The first label is always -100: nothing stands before the first token that could predict it. ``weights``: loss
    weight of each token, where some trained token has another than 1 (0 where it is not trained); else None.
    """

    input_ids: list[int]
    labels: list[int]
    where: str
    weights: list[float] | None = None

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
    or None for raw text. ``tools``: what the prompt offers to call. ``reference``: the answer to compare
    with. ``checkable``: whether comparing makes sense (the row has an `answer` column, or its answer is a
    JSON object).
    """

    prompt: list[Message] | str | None = None
    tools: list[dict[str, Any]] | None = None
    reference: str | None = None
    checkable: bool = False
