"""Generated texts of given lengths in a model's own tokens, put to the model, and what it found in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias

from alignkit.data.encoding.tokenizing import plain_prefix
from alignkit.evaluation.long_context import tasks
from alignkit.evaluation.long_context.reading import OnRead, answers, tokens_to_read
from alignkit.evaluation.long_context.recipe import Suite
from alignkit.evaluation.long_context.scores import Cell
from alignkit.evaluation.long_context.tasks import Task
from alignkit.evaluation.scores import Graded

SLACK = 4
"""Tokens that may be written beside an answer: a line break, a quotation mark."""


Wanted: TypeAlias = list[tuple[Callable[[int], list[Task]], float | None]]
"""Texts with a question, each by its number of filler sentences, and at which depth it hides what it asks for."""


@dataclass(frozen=True)
class Question:
    """A task as tokens."""

    task: Task
    ids: list[int]
    new: int
    """Tokens to write; the prompt and these fit into the length."""
    length: int
    depth: float | None


@dataclass(frozen=True)
class Answered:
    question: Question
    text: str

    @property
    def found(self) -> float:
        return self.question.task.found(self.text)

    def graded(self) -> Graded:
        question = self.question
        return Graded(
            prompt=f"{question.length:,} tokens: {question.task.asked}",
            reference=", ".join(question.task.answers),
            answer=self.text,
            correct=self.found == 1.0,
            finished=True,
            where="",
        )


class Questions:
    """Everything that is asked at the lengths of a suite, by kind of task. Generated when it is made."""

    def __init__(self, suite: Suite, tokenizer: Any, lengths: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.prefix = plain_prefix(tokenizer)
        self.too_short: dict[str, list[int]] = defaultdict(list)
        """Lengths that a kind of task does not fit into."""
        self.all: list[Question] = []
        for length in lengths:
            self._kind("passkey", length, _passkeys(suite, length))
            self._kind("needle", length, _needles(suite, length))
            self._kind("chain", length, _chains(suite, length))

    def of(self, length: int) -> list[Question]:
        return [question for question in self.all if question.length == length]

    def tokens(self, model: Any) -> int:
        """What reading them all takes."""
        return sum(tokens_to_read(model, ids) for _, ids, _ in self.batches())

    def batches(self) -> Iterator[tuple[list[Question], list[list[int]], int]]:
        """Questions of one length that want as many tokens as each other, their ids, and that many."""
        groups: dict[tuple[int, int], list[Question]] = defaultdict(list)
        for question in self.all:
            groups[question.length, question.new].append(question)
        for (_, new), group in sorted(groups.items(), key=lambda item: item[0]):
            yield group, [question.ids for question in group], new

    def ask(self, model: Any, on_read: OnRead = lambda count: None) -> list[Answered]:
        """The model's answers, in the order of the questions. The caller holds ``reading(model)``."""
        written: dict[int, Answered] = {}
        for group, ids, new in self.batches():
            for question, found in zip(group, answers(model, ids, new, on_read), strict=True):
                text = self.tokenizer.decode(found, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                written[id(question)] = Answered(question, text.strip())
        return [written[id(question)] for question in self.all]

    def _kind(self, kind: str, length: int, wanted: Wanted) -> None:
        """Questions of one kind, as long as their answers leave room for."""
        filler: int | None = None
        for make, depth in wanted:
            new = self._new(make(0))
            limit = length - new
            if filler is None or self._most(make(filler)) > limit:
                filler = tasks.fitted(lambda count, made=make: _longest(made(count)), self._count, limit)  # type: ignore[misc]
            while filler and self._most(make(filler)) > limit:  # the longest text may not be the one of most tokens
                filler -= 1
            if filler is None or self._most(make(filler)) > limit:
                self.too_short[kind].append(length)
                return
            self.all += [Question(task, self._ids(task.text), new, length, depth) for task in make(filler)]

    def _ids(self, text: str) -> list[int]:
        return [*self.prefix, *self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]

    def _count(self, text: str) -> int:
        return len(self._ids(text))

    def _most(self, found: Sequence[Task]) -> int:
        return max(self._count(task.text) for task in found)

    def _new(self, found: Sequence[Task]) -> int:
        """Tokens that the longest of the answers takes, and some more."""
        return SLACK + max(
            len(self.tokenizer(task.continuation, add_special_tokens=False, verbose=False)["input_ids"])
            for task in found
        )


def _longest(made: Sequence[Task]) -> str:
    return max((task.text for task in made), key=len)


def cells(answered: Sequence[Answered], kind: str) -> list[Cell]:
    """What was found, by length and depth."""
    groups: dict[tuple[int, float | None], list[Answered]] = defaultdict(list)
    for one in answered:
        if one.question.task.kind == kind:
            groups[one.question.length, one.question.depth].append(one)
    return [
        Cell(length=length, depth=depth, asked=len(group), found=sum(one.found for one in group))
        for (length, depth), group in groups.items()
    ]


def depths(count: int) -> list[float]:
    """From the beginning to the end, evenly; one alone is the middle."""
    return [0.5] if count == 1 else [number / (count - 1) for number in range(count)]


def _passkeys(suite: Suite, length: int) -> Wanted:
    def make(name: str, depth: float) -> Callable[[int], list[Task]]:
        return lambda filler: [tasks.passkey(Random(name), filler, depth)]

    return [
        (make(f"{suite.seed} passkey {length} {depth} {number}", depth), depth)
        for depth in depths(suite.depths)
        for number in range(suite.passkeys)
    ]


def _needles(suite: Suite, length: int) -> Wanted:
    def make(name: str) -> Callable[[int], list[Task]]:
        return lambda filler: tasks.several_keys(Random(name), filler, suite.keys)

    return [(make(f"{suite.seed} needle {length} {number}"), None) for number in range(suite.needles)]


def _chains(suite: Suite, length: int) -> Wanted:
    def make(name: str) -> Callable[[int], list[Task]]:
        return lambda filler: [tasks.chain(Random(name), filler, suite.hops)]

    return [(make(f"{suite.seed} chain {length} {number}"), None) for number in range(suite.chains)]
