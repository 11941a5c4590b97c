"""What a document of any kind is rendered as: one text to learn from, or the two sides of a comparison."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from alignkit.data.encoding.packed import Tokens
from alignkit.data.encoding.rendered import Rendered
from alignkit.data.rows import (
    Completion,
    Conversation,
    Document,
    Feedback,
    Labelled,
    Message,
    Preference,
    Prompt,
    Ranking,
    Said,
    Scored,
    Text,
)

Part: TypeAlias = "tuple[int, Tokens, Rendered, bool]"
"""(the side of a comparison or 0, its tokens, its text, whether it is the last text of its side)."""


@dataclass(frozen=True, slots=True)
class Side:
    """``part``: 0, or of a comparison 1 for the chosen, wanted or best answer, 2 for the rejected, unwanted or second,
    and so on. ``trained``: whether it must have tokens that carry loss (a prompt has none)."""

    document: Conversation | Completion | Text | Prompt
    part: int = 0
    trained: bool = True


@dataclass(slots=True)
class Done:
    """One document's rows: none where all were dropped. ``lengths``: tokens of each row before it was cut. ``trunk``:
    of a comparison, the tokens that its rows share before anything is scored; else 0."""

    rows: list[Part] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    trunk: int = 0

    @property
    def full_lengths(self) -> list[int]:
        """Tokens before anything was cut of what is kept or dropped as one: a row, or the longest side of a
        comparison."""
        return [max(self.lengths)] if self.trunk else self.lengths


def sides(document: Document) -> list[Side]:
    """The sides of a document, in the order of their parts."""
    if isinstance(document, Conversation | Completion | Text):
        return [Side(document)]
    if isinstance(document, Prompt):
        return [Side(document, trained=False)]
    if isinstance(document, Labelled):
        return [Side(Prompt(document.text, document.where), trained=False)]
    where = document.where
    if isinstance(document, Preference):
        answers: list[Said] = [document.chosen, document.rejected]
        return [
            Side(answered(document.prompt, answer, where, document.tools), part)
            for part, answer in enumerate(answers, 1)
        ]
    if isinstance(document, Feedback):
        return [Side(answered(document.prompt, document.completion, where), 1 if document.label else 2)]
    if isinstance(document, Scored):
        return [Side(answered(document.prompt, document.completion, where), 1)]
    assert isinstance(document, Ranking)
    return [Side(answered(document.prompt, answer, where), part) for part, answer in enumerate(document.answers, 1)]


def answered(
    prompt: Said, answer: Said, where: str, tools: list[dict[str, object]] | None = None
) -> Conversation | Completion:
    """A prompt with its answer, of which the answer alone carries loss."""
    if isinstance(prompt, str) and isinstance(answer, str):
        return Completion(prompt, answer, where)
    asked: list[Message] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    said: list[Message] = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
    weights = None
    if any(message["role"] == "assistant" for message in asked):
        weights = (0.0,) * len(asked) + tuple(float(message["role"] == "assistant") for message in said)
    return Conversation([*asked, *said], where, tools=tools, weights=weights)
