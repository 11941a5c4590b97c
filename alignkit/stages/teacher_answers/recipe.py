"""Options of the teacher-answers stage: what a teacher is asked, how its answers are drawn, and which are kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from alignkit.config.recipe import Kind, StageRecipe
from alignkit.config.sections import OPERATIONAL, Data, Model, Quantization
from alignkit.errors import Fault
from alignkit.teachers.recipe import Server, server_faults

INSTRUCTION = (
    "The right answer is: {answer}\nExplain step by step, in a few sentences, how it follows from what was given. "
    "Write the explanation only."
)


@dataclass(kw_only=True)
class AnswerOptions:
    """What is peculiar to taking a teacher's texts."""

    what: Literal["answers", "rationales"] = "answers"
    """answers: to the prompts of the data, in place of the data's own; rationales: a reason for each answer of the
    data, in a column `rationale` beside it."""
    instruction: str = INSTRUCTION
    """Put after the prompt where rationales are asked for; {answer} in it becomes the row's answer."""
    samples: Annotated[int, Ge(1)] = 1
    """Answers drawn to each prompt."""
    temperature: Annotated[float, Ge(0)] = 0.0
    """0: the likeliest token each time; above, tokens are drawn and the logits divided by it."""
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """Draw from the smallest set of tokens whose probability reaches this; 1: from all."""
    max_new_tokens: Annotated[int, Ge(1)] = 512
    """Longest answer in tokens."""
    unfinished: Literal["drop", "keep"] = "drop"
    """Answers that the limit cut off: left out, since who learns from them learns to stop there; or kept."""
    batch: Annotated[int, Ge(1)] = field(default=32, metadata=OPERATIONAL)
    """Answers written at once, by a model that is loaded here."""
    server: Server = field(default_factory=Server)
    """A server that runs the teacher: `teacher` then names a tokenizer only, by which prompts are measured."""


@dataclass(kw_only=True)
class Recipe(StageRecipe):
    """What a teacher writes, as rows to train on."""

    semantics: ClassVar[int] = 1

    teacher: Model
    data: Data
    quantization: Quantization = field(default_factory=Quantization)
    """Of the teacher."""
    answers: AnswerOptions = field(default_factory=AnswerOptions)

    @property
    def wants(self) -> Kind:
        return "prompt" if self.answers.what == "answers" else "demonstration"

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        options = self.answers
        yield from server_faults(options.server, "answers.server")
        if options.samples > 1 and options.temperature == 0:
            yield Fault(
                where="answers.samples",
                what=f"{options.samples} answers at temperature 0 are all the same",
                instead="Write answers.temperature=1, or answers.samples=1.",
            )
        if options.what == "answers" and options.instruction != INSTRUCTION:
            yield Fault(
                where="answers.instruction",
                what="is set, and prompts are answered as they stand",
                instead="Write answers.what=rationales, or leave it out.",
            )
        if options.server.url is not None and self.quantization.kind != "none":
            what = "is set, and the teacher runs on a server"
            yield Fault(where="quantization.kind", what=what, instead="Leave it out, or take out answers.server.url.")
