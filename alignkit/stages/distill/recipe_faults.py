"""Combinations of a distillation's values that cannot work. No file is read here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from alignkit.errors import Fault
from alignkit.teachers.recipe import server_faults

if TYPE_CHECKING:
    from alignkit.stages.distill.recipe import DistillOptions, Recipe

TEXT_MODES = ("sequence", "step-by-step")
"""Modes that learn from texts: the student sees no distribution."""


def faults(recipe: Recipe) -> Iterator[Fault]:
    """Every one of them."""
    options = recipe.distill
    yield from server_faults(options.server, "distill.server")
    yield from options.student.faults("distill.student")
    yield from _teacher_faults(options)
    yield from _student_faults(recipe)
    yield from _loss_faults(options)
    yield from _tokenizer_faults(options)
    yield from _hidden_faults(options)
    if options.mode == "on-policy":
        yield from _on_policy_faults(recipe)
    if options.mode == "step-by-step":
        yield from _steps_faults(recipe)
    elif options.mode == "sequence" and recipe.data.packing == "best-fit" and recipe.data.overlength == "split":
        yield Fault(
            where="data.overlength",
            what="split cuts raw text, and a teacher answers prompts",
            instead="Write data.overlength=drop.",
        )


def _teacher_faults(options: DistillOptions) -> Iterator[Fault]:
    served, cached = options.server.url is not None, options.cache is not None
    named = options.teacher is not None and bool(options.teacher.name)
    if not (named or served or cached) and options.mode != "step-by-step":
        yield Fault(
            where="distill.teacher.name",
            what="is required, and nothing sets it",
            # No names of other sections in here: a fault that names one is left out where that is not set either.
            instead="Write teacher=…, distill.cache=… (what recipe=teacher-cache prints) or distill.server.url=…"
            if options.student.kind == "given"
            else "Write teacher=…; the student is made from it, and no other is to be named.",
        )
    if served and cached:
        yield Fault(
            where="distill.cache",
            what="is set beside distill.server.url, and one of them teaches",
            instead="Leave one of them out.",
        )
    if options.teachers and (not named or served or cached):
        yield Fault(
            where="distill.teachers",
            what="are averaged with distill.teacher, and "
            + ("it is not set" if not named else "the teacher's weights are not read here"),
            instead="Name the first with teacher=…, without a cache or a server.",
        )
    if options.teachers and options.mode in TEXT_MODES:
        yield Fault(
            where="distill.teachers",
            what=f"average their probabilities, and mode={options.mode} learns from one teacher's text",
            instead="Leave them out, or write distill.mode=logits.",
        )
    if cached and options.mode != "logits":
        yield Fault(
            where="distill.cache",
            what=f"holds log-probabilities at the data's own tokens, and mode={options.mode} asks for others",
            instead="Write distill.mode=logits, or name a teacher with teacher=…",
        )
    correction = options.correct_teacher
    if correction.steps and (served or cached):
        yield Fault(
            where="distill.correct_teacher.steps",
            what="trains the teacher, and its weights are not read here",
            instead="Name it with teacher=…, without a cache or a server; or train it first (recipe=sft), and "
            "cache that.",
        )
    if correction.steps and options.teacher is not None and options.teacher.quantization.kind != "none":
        yield Fault(
            where="distill.correct_teacher.steps",
            what=f"trains all of the teacher's weights, and {options.teacher.quantization.kind} weights are frozen",
            instead="Train it first with an adapter (recipe=lora) and name the result with teacher=…",
        )


def _student_faults(recipe: Recipe) -> Iterator[Fault]:
    options = recipe.distill
    if options.student.kind == "given":
        return
    if options.teacher is None or not options.teacher.name:
        if options.server.url is None and options.cache is None:
            return  # told already: nothing teaches
        yield Fault(
            where="distill.student.kind",
            what=f"{options.student.kind} makes the student from the teacher's weights, and no teacher is named",
            instead="Write teacher=…",
        )
    elif recipe.model.name != options.teacher.name:
        yield Fault(
            where="distill.student.kind",
            what=f"{options.student.kind} makes the student from the teacher, and model names another student",
            instead="Leave model out, or write distill.student.kind=given.",
        )
    if options.teacher is not None and options.teacher.quantization.kind != "none":
        yield Fault(
            where="distill.student.kind",
            what="a student is made from whole weights, and distill.teacher.quantization is set",
            instead="Leave the quantization out.",
        )


def _loss_faults(options: DistillOptions) -> Iterator[Fault]:
    if not options.weight and not options.ce:
        yield Fault(
            where="distill.weight", what="is 0, and distill.ce is 0 too: nothing is learned", instead="Set one of them."
        )
    for name, kinds in (("beta", ("jsd",)), ("skew", ("skewed-kl", "skewed-reverse-kl"))):
        if getattr(options, name) != type(options).__dataclass_fields__[name].default and (
            options.divergence not in kinds or options.tokenizers == "uld"
        ):
            yield Fault(
                where=f"distill.{name}",
                what=f"belongs to {' and '.join(kinds)}, and the divergence is "
                + ("uld" if options.tokenizers == "uld" else options.divergence),
                instead="Leave it out.",
            )
    if options.server.url is not None and options.temperature != 1.0 and options.mode not in TEXT_MODES:
        yield Fault(
            where="distill.temperature",
            what=f"is {options.temperature:g}, and a server lists log-probabilities at temperature 1",
            instead="Write distill.temperature=1.",
        )
    if options.mode in TEXT_MODES:
        fields = type(options).__dataclass_fields__
        for name in ("divergence", "temperature", "weight", "ce", "tokenizers"):
            if getattr(options, name) != fields[name].default:
                yield Fault(
                    where=f"distill.{name}",
                    what=f"says how distributions are compared, and mode={options.mode} learns from texts",
                    instead="Leave it out.",
                )


def _tokenizer_faults(options: DistillOptions) -> Iterator[Fault]:
    if options.tokenizers == "same":
        return
    where = "distill.tokenizers"
    if options.cache is not None or options.server.url is not None:
        yield Fault(
            where=where,
            what=f"{options.tokenizers} needs a teacher that reads the rows in its own tokens, and is loaded here",
            instead="Name it with teacher=…, without a cache or a server.",
        )
    if options.teachers:
        yield Fault(
            where=where,
            what="teachers are averaged token by token, which takes one vocabulary",
            instead="Leave distill.teachers out.",
        )
    if options.tokenizers == "uld" and options.divergence != "forward-kl":
        yield Fault(
            where="distill.divergence",
            what="uld is a distance of its own (of sorted probabilities)",
            instead="Leave distill.divergence out, or write distill.tokenizers=spans.",
        )


def _hidden_faults(options: DistillOptions) -> Iterator[Fault]:
    if options.hidden.loss == "none":
        return
    where = "distill.hidden.loss"
    if options.mode in TEXT_MODES:
        yield Fault(where=where, what=f"compares inner states, and mode={options.mode} learns from texts")
    elif options.cache is not None or options.server.url is not None:
        yield Fault(
            where=where,
            what="compares inner states, and only a teacher that is loaded here shows them",
            instead="Name it with teacher=…, without a cache or a server.",
        )
    elif options.tokenizers != "same":
        yield Fault(
            where=where,
            what="compares inner states token by token, and the tokenizers differ",
            instead="Write distill.hidden.loss=none.",
        )
    elif options.teachers:
        yield Fault(
            where=where,
            what="there are several teachers, whose inner states have no mean",
            instead="Write distill.hidden.loss=none.",
        )


def _on_policy_faults(recipe: Recipe) -> Iterator[Fault]:
    if recipe.distill.ce:
        yield Fault(
            where="distill.ce",
            what="is the cross entropy with the data's tokens, and the student's own answers are none",
            instead="Write distill.ce=0; distill.on_policy.share leaves a part of the rows to the data's answers.",
        )
    if recipe.data.packing == "best-fit":
        yield Fault(
            where="data.packing",
            what="best-fit fills blocks with rows of known lengths, and the student's answers have none yet",
            instead="Write data.packing=true, or data.packing=false to pad.",
        )
    if recipe.data.train_on == "all":
        yield Fault(
            where="data.train_on",
            what="the student answers prompts, and train_on=all leaves none",
            instead="Leave it out.",
        )


def _steps_faults(recipe: Recipe) -> Iterator[Fault]:
    steps = recipe.distill.steps
    if steps.label_prefix == steps.rationale_prefix:
        yield Fault(
            where="distill.steps.rationale_prefix",
            what="is the label's prefix too, so that nothing tells the two tasks apart",
            instead="Write another one.",
        )
    if recipe.data.packing == "best-fit":
        yield Fault(
            where="data.packing",
            what="best-fit makes blocks of rows, and a step counts labels and rationales in pairs",
            instead="Write data.packing=true, or data.packing=false to pad.",
        )
    if "{answer}" not in steps.instruction:
        yield Fault(
            where="distill.steps.instruction",
            what="does not hold {answer}, so the teacher would argue for an answer of its own",
            instead="Put {answer} in.",
        )
