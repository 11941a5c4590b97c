"""A document as a person should see it: its turns, and in each the text that carries loss and the text that does not.

What is shown is decoded from the very token ids and labels that a trainer would get, never from the row's own text, so
that a wrong mask or a doubled BOS is there to be seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from alignkit.data.encoding.sides import sides
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
    Scored,
    Text,
)
from alignkit.errors import Fault

KINDS: dict[type, str] = {
    Conversation: "conversation",
    Completion: "prompt and completion",
    Text: "raw text",
    Preference: "preference",
    Feedback: "feedback",
    Scored: "scored answer",
    Ranking: "ranking",
    Prompt: "prompt",
    Labelled: "labelled text",
}
"""What a document is called."""


@dataclass(slots=True)
class Piece:
    """A stretch of text whose tokens are alike. ``tokens``: how many; 0 without a tokenizer."""

    text: str
    trained: bool = False
    special: bool = False
    weight: float = 1.0
    tokens: int = 0


@dataclass(slots=True)
class Turn:
    """The text of one role."""

    role: str
    pieces: list[Piece] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Tokens of the turn, trained or not."""
        return sum(piece.tokens for piece in self.pieces)

    @property
    def trained(self) -> int:
        """Tokens that carry loss."""
        return sum(piece.tokens for piece in self.pieces if piece.trained)

    @property
    def characters(self) -> int:
        """Characters of the turn."""
        return sum(len(piece.text) for piece in self.pieces)

    @property
    def weights(self) -> list[float]:
        """The loss weights that stand in the turn, each once, in order."""
        return list(dict.fromkeys(piece.weight for piece in self.pieces if piece.trained))


@dataclass(slots=True)
class View:
    """One text that goes into a model. ``name`` tells several of a row apart: chosen, rejected, answer 2 of 4."""

    name: str
    turns: list[Turn]

    @property
    def tokens(self) -> int:
        """Tokens of the whole text."""
        return sum(turn.tokens for turn in self.turns)

    @property
    def trained(self) -> int:
        """Tokens that carry loss."""
        return sum(turn.trained for turn in self.turns)

    @property
    def characters(self) -> int:
        """Characters of the whole text."""
        return sum(turn.characters for turn in self.turns)


@dataclass(slots=True)
class Look:
    """A row as it is shown: its views, or the sentence about why there are none."""

    where: str
    kind: str
    views: list[View] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    """What the row says beside its text: a label, scores, the answer to compare with."""
    trouble: str = ""
    """Why the row cannot be used, as a sentence."""


def sentence(fault: Fault, where: str) -> str:
    """A fault of a row whose place was said already: "turn 2: is empty"."""
    return str(fault).removeprefix(where).lstrip(",: ")


def names(document: Document) -> list[str]:
    """What the sides of a document (see `sides`) are called; empty where there is one only."""
    if isinstance(document, Preference):
        return ["chosen", "rejected"]
    if isinstance(document, Ranking):
        return [f"answer {number} of {len(document.answers)}" for number in range(1, len(document.answers) + 1)]
    return [""]


def facts(document: Document) -> list[str]:
    """What a document says beside its text."""
    found = []
    if isinstance(document, Preference):
        scores = (document.chosen_score, document.rejected_score)
        found += [
            f"{name} scored {score:g}"
            for name, score in zip(("chosen", "rejected"), scores, strict=True)
            if score is not None
        ]
    elif isinstance(document, Feedback):
        found.append("wanted" if document.label else "not wanted")
    elif isinstance(document, Scored):
        found.append(f"scored {document.score:g}")
    elif isinstance(document, Ranking) and document.scores is not None:
        found.append(f"scores {', '.join(f'{score:g}' for score in document.scores)}")
    elif isinstance(document, Labelled):
        found.append(f"label {document.label}")
    answer = getattr(document, "answer", None)
    if answer is not None:
        found.append(f"answer to compare with: {answer}")
    tools = getattr(document, "tools", None)
    if tools:
        names = (str(tool.get("function", tool).get("name", "?")) for tool in tools)
        found.append(f"tools: {', '.join(names)}")
    return found


def plain_views(document: Document) -> list[View]:
    """A document without a tokenizer: the text of the row itself."""
    pairs = zip(names(document), sides(document), strict=True)
    return [View(name, _turns(side.document, document)) for name, side in pairs]


def _turns(one: Conversation | Completion | Text | Prompt, document: Document) -> list[Turn]:
    if isinstance(document, Text | Labelled):
        return [Turn("text", [Piece(document.text)])]
    if isinstance(one, Completion):
        return [Turn("prompt", [Piece(one.prompt)]), Turn("completion", [Piece(one.completion)])]
    assert not isinstance(one, Text)
    said = one.messages if isinstance(one, Conversation) else one.prompt
    if isinstance(said, str):
        return [Turn("prompt", [Piece(said)])]
    return [Turn(message["role"], [Piece(spoken(message))]) for message in said]


def spoken(message: Message) -> str:
    """All that a message says: its reasoning, its content, the calls it makes."""
    parts = [message.get("reasoning_content") or "", message.get("content") or ""]
    for call in message.get("tool_calls") or []:
        function = call.get("function", call)
        parts.append(f"{function.get('name')}({function.get('arguments')})")
    return "\n".join(part for part in parts if part)
