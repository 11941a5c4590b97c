"""Teachers of which only texts are taken: answers to prompts, drawn from a model here or on a server, as rows that
another model can be trained on (sequence-level distillation, Kim and Rush 2016).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from alignkit.console.progress import counting
from alignkit.data.prompts import Asked
from alignkit.errors import RunError
from alignkit.evaluation.sampling import as_sample, pad_id, sample_ids
from alignkit.evaluation.stopping import stop_tokens
from alignkit.runs.journal import Journal

UNFINISHED = "answers that the limit cut off"
EMPTY = "answers without text"
REPEATED = "answers with the words of another one to the prompt"


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How answers are drawn."""

    samples: int = 1
    max_new_tokens: int = 512
    temperature: float = 0.0
    """0: the likeliest token each time."""
    top_p: float = 1.0
    seed: int = 42


@dataclass(frozen=True, slots=True)
class Drawn:
    """One answer. ``finished``: the teacher ended it itself, before the limit did."""

    text: str
    tokens: int
    finished: bool


class Answerer(Protocol):
    """Whoever writes answers."""

    @property
    def together(self) -> int:
        """Prompts that it takes at once."""

    def answers(self, asked: Sequence[Asked], numbers: Sequence[int]) -> list[list[Drawn]]:
        """Answers to each prompt. ``numbers``: what tells each prompt's chances from another's."""


class LocalAnswerer:
    """A model in memory. An answer depends on the seed and the prompt's number, not on what is answered beside it."""

    def __init__(self, model: Any, tokenizer: Any, drawing: Drawing, *, batch: int) -> None:
        """``batch``: answers written at once."""
        self.model, self.tokenizer, self.drawing, self.batch = model, tokenizer, drawing, batch
        self._stop = stop_tokens(model, tokenizer)

    @property
    def together(self) -> int:
        return max(1, self.batch // self.drawing.samples)

    def answers(self, asked: Sequence[Asked], numbers: Sequence[int]) -> list[list[Drawn]]:
        drawing = self.drawing
        written = sample_ids(
            self.model,
            [one.ids for one in asked],
            stop=self._stop,
            pad_id=pad_id(self.tokenizer),
            samples=drawing.samples,
            max_new_tokens=drawing.max_new_tokens,
            temperature=drawing.temperature,
            top_p=drawing.top_p,
            seed=drawing.seed,
            batch=self.batch,
            numbers=numbers,
        )
        return [[self._drawn(ids) for ids in row] for row in written]

    def _drawn(self, ids: list[int]) -> Drawn:
        sample = as_sample(self.tokenizer, ids, self._stop)
        return Drawn(sample.text, len(sample.ids), sample.finished)


def draw_answers(answerer: Answerer, prompts: Sequence[Asked], journal: Journal) -> None:
    """Answers to the prompts that have none in the journal yet, the longest prompts first; each batch is kept there."""
    order = sorted((n for n in range(len(prompts)) if n not in journal), key=lambda n: -len(prompts[n].ids))
    with counting("answered prompts", len(order)) as progress:
        for start in range(0, len(order), answerer.together):
            numbers = order[start : start + answerer.together]
            found = answerer.answers([prompts[number] for number in numbers], numbers)
            journal.append(
                {
                    "number": number,
                    "answers": [{"text": a.text, "tokens": a.tokens, "finished": a.finished} for a in answers],
                }
                for number, answers in zip(numbers, found, strict=True)
            )
            progress(len(numbers))


@dataclass
class Answers:
    """What became of the answers: usable ones, by the prompt's number, and what was left out, by reason."""

    kept: list[tuple[int, str]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    prompts: int = 0
    answered: int = 0
    """Prompts with a usable answer."""
    written: int = 0
    tokens: int = 0
    finished: int = 0

    def figures(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "prompts": self.prompts,
            "prompts_answered": self.answered,
            "answers": self.written,
            "rows": len(self.kept),
            "finished": self.finished / max(1, self.written),
            "tokens": self.tokens / max(1, self.written),
            "left_out": dict(self.left_out),
        }

    def lines(self) -> list[str]:
        """For a person."""
        found = self.figures()
        told = [
            f"{found['rows']:,} rows of {found['answers']:,} answers to {found['prompts']:,} prompts; "
            f"{found['tokens']:.0f} tokens an answer, {100 * found['finished']:.0f}% ended by the teacher"
        ]
        return told + [f"left out: {count:,} {reason}" for reason, count in self.left_out.items()]


def usable_answers(journal: Journal, prompts: int, *, keep_unfinished: bool, instead: str) -> Answers:
    """The answers in a journal that can be learned from. Raises RunError where there is none, which says what to do
    ``instead``."""
    done = Answers(prompts=prompts)
    for number, line in enumerate(journal.read(range(prompts))):
        seen: set[str] = set()
        for answer in line["answers"]:
            text: str = answer["text"]
            done.written += 1
            done.tokens += answer["tokens"]
            done.finished += answer["finished"]
            if not answer["finished"] and not keep_unfinished:
                done.left_out[UNFINISHED] += 1
            elif not text.strip():
                done.left_out[EMPTY] += 1
            elif text in seen:
                done.left_out[REPEATED] += 1
            else:
                seen.add(text)
                done.kept.append((number, text))
        done.answered += bool(seen)
    if not done.kept:
        told = ", ".join(f"{count:,} {reason}" for reason, count in done.left_out.items())
        raise RunError(
            f"No answer of the teacher can be learned from: left out were {told}. {instead} They stand in "
            f"{journal.path}."
        )
    return done


def answer_row(asked: Asked, answer: str) -> dict[str, Any]:
    """A row as `data=` reads it: a conversation as messages, a plain prompt with its completion."""
    if isinstance(asked.prompt, str):
        return {"prompt": asked.prompt, "completion": answer}
    row: dict[str, Any] = {"messages": [*asked.prompt, {"role": "assistant", "content": answer}]}
    return row | ({"tools": asked.tools} if asked.tools else {})
