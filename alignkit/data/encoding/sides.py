"""What a document of any kind is rendered as: one text to learn from, or the two sides of a comparison."""

from __future__ import annotations

from dataclasses import dataclass

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
    Text,
)


@dataclass(frozen=True, slots=True)
class Side:
    """``part``: 0, or of a comparison 1 for the chosen, wanted or best answer, 2 for the rejected, unwanted or second,
    and so on. ``trained``: whether it must have tokens that carry loss (a prompt has none)."""

    document: Conversation | Completion | Text | Prompt
    part: int = 0
    trained: bool = True


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
