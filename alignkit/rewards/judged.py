"""What a reward is: answers go in, numbers come out, and what is no number never goes on unnoticed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from alignkit.data.rows import Message, Said
from alignkit.errors import NumericsError, RequestError

RAISED = "raised"
"""How a problem begins that is an exception of the reward's own."""
SHOWN = 600
"""Characters of a prompt and of an answer in an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """An answer to be judged, and what a reward may want to know of its prompt.

    ``reference``: what a checker compares with; ``columns``: the row that the prompt came from, by its own names.
    """

    prompt: Said
    answer: str
    reference: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    tools: list[dict[str, Any]] | None = None
    where: str = ""

    @property
    def conversation(self) -> list[Message] | None:
        """The prompt's turns with the answer after them; None for plain text."""
        if isinstance(self.prompt, str):
            return None
        return [*self.prompt, {"role": "assistant", "content": self.answer}]


class Reward(ABC):
    """Judges answers. A subclass says how by `score`; whoever uses it calls it."""

    name: str
    usage: str = ""
    """How it is called and what it must give back, for a person whose code it is."""

    @abstractmethod
    def score(self, rows: Sequence[Judged]) -> Sequence[float | None]:
        """A number for each row, higher for a better answer. None, NaN and exceptions are reported by the caller."""

    def __call__(self, rows: Sequence[Judged]) -> list[float]:
        """A finite number for each row. Raises NumericsError with the prompt and the answer where there is none."""
        scores, problems = self.judge(rows)
        for row, problem in zip(rows, problems, strict=True):
            if problem is not None:
                raise NumericsError(self._sentence(row, problem))
        return scores

    def judge(self, rows: Sequence[Judged]) -> tuple[list[float], list[str | None]]:
        """The scores, NaN where a row got none, and what was wrong with each row (None: nothing).

        A reward that raises is asked again row by row, to tell which answer it cannot judge. One that gives another
        number of scores than there are answers has judged none of them: which score is whose, nobody knows. What is
        wrong with the request (RequestError) is no answer's fault, and is raised.
        """
        if not rows:
            return [], []
        try:
            found = list(self.score(rows))
        except RequestError:
            raise
        except Exception as error:
            if len(rows) > 1:
                singly = [self.judge([row]) for row in rows]
                return [one for scores, _ in singly for one in scores], [one for _, said in singly for one in said]
            return [math.nan], [_first_line(error)]
        if len(found) != len(rows):
            said = f"gave {_several(len(found), 'score')} for {_several(len(rows), 'answer')}"
            return [math.nan] * len(rows), [said] * len(rows)
        scores = [_number(one) for one in found]
        problems = [
            None if math.isfinite(score) else f"gave {given!r}" for score, given in zip(scores, found, strict=True)
        ]
        return [math.nan if said else score for score, said in zip(scores, problems, strict=True)], problems

    def _sentence(self, row: Judged, problem: str) -> str:
        place = f" ({row.where})" if row.where else ""
        wanted = self.usage if problem.startswith(RAISED) else "It must give a finite number for every answer."
        return (
            f"The reward {self.name} {problem}{place}. {wanted}".rstrip() + "\n"
            f"Prompt: {_shown(as_text(row.prompt))}\nAnswer: {_shown(row.answer)}"
        )


class EachReward(Reward):
    """A reward that looks at one answer at a time."""

    def __init__(self, name: str, function: Callable[[Judged], float]) -> None:
        self.name, self.function = name, function

    def score(self, rows: Sequence[Judged]) -> list[float]:
        return [self.function(row) for row in rows]


def as_text(said: Said) -> str:
    """A prompt as plain text: of a conversation each turn after the name of who speaks."""
    if isinstance(said, str):
        return said
    return "\n\n".join(f"{message['role'].capitalize()}: {message.get('content') or ''}" for message in said)


def _number(given: Any) -> float:
    """A number, or NaN for what is none. Numbers of numpy and tensors of one element are numbers; texts are not."""
    if given is None or isinstance(given, str | bytes):
        return math.nan
    try:
        return float(given)
    except (TypeError, ValueError, RuntimeError):
        return math.nan


def _several(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def _first_line(error: Exception) -> str:
    text = next(iter(str(error).splitlines()), "")
    return f"{RAISED} {type(error).__name__}: {text}" if text else f"{RAISED} {type(error).__name__}"


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN * 2 // 3]} … {text[-SHOWN // 3 :]}"
