"""Combinations of an extend-context recipe's values that cannot work, told without looking at any file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING

from alignkit.config.rope import Llama3, LongRope, Yarn
from alignkit.config.sections import Data
from alignkit.errors import Fault

if TYPE_CHECKING:
    from alignkit.stages.extend_context.recipe import ContextOptions, Recipe

OF_METHOD = {"yarn": Yarn, "llama3": Llama3, "longrope": LongRope}
"""Sections that belong to one method."""


def faults(recipe: Recipe) -> Iterator[Fault]:
    """Everything about the method, the schedule and the training."""
    yield from _method_faults(recipe.context)
    yield from _parameter_faults(recipe.context)
    yield from _schedule_faults(recipe)
    yield from recipe.evaluation.suite.faults("evaluation.suite")
    if not recipe.context.train:
        yield from _untrained_faults(recipe)
    yield from _training_faults(recipe)


def _method_faults(context: ContextOptions) -> Iterator[Fault]:
    """Parameters of another method than the one named, and ones that contradict each other."""
    for name, kind in OF_METHOD.items():
        section, default = getattr(context, name), kind()
        changed = [one.name for one in fields(section) if getattr(section, one.name) != getattr(default, one.name)]
        if name != context.method and changed:
            yield Fault(
                where=f"context.{name}.{changed[0]}",
                what=f"is set, and context.method is {context.method}",
                instead=f"Write context.method={name}, or leave it out.",
            )
    if context.theta is not None and context.method != "abf":
        yield Fault(
            where="context.theta",
            what=f"only abf takes a base frequency that is given, and context.method is {context.method}",
            instead="Write context.method=abf, or leave it out.",
        )
    if context.factor is not None and context.method == "abf" and context.theta is not None:
        yield Fault(
            where="context.factor",
            what="abf with context.theta given has no use for a factor",
            instead="Leave one of the two out.",
        )
    if context.original is not None and context.original >= context.length:
        yield Fault(
            where="context.length",
            what=f"{context.length} tokens are no more than context.original={context.original}",
            instead=f"Write a context.length above {context.original}.",
        )


def _parameter_faults(context: ContextOptions) -> Iterator[Fault]:
    """Parameters of a method that contradict each other."""
    yarn, llama3, longrope = context.yarn, context.llama3, context.longrope
    fast, slow = yarn.beta_fast or 32.0, yarn.beta_slow or 1.0
    if fast <= slow:
        yield Fault(
            where="context.yarn.beta_fast",
            what=f"{fast:g} is not above beta_slow, {slow:g}: there is no ramp between them",
            instead="Write beta_fast=32 and beta_slow=1, as the paper has them.",
        )
    if (yarn.mscale is None) != (yarn.mscale_all_dim is None):
        one, other = ("mscale", "mscale_all_dim") if yarn.mscale is not None else ("mscale_all_dim", "mscale")
        yield Fault(
            where=f"context.yarn.{one}",
            what=f"it counts together with {other} only",
            instead=f"Set context.yarn.{other} too, or leave it out.",
        )
    high, low_factor = llama3.high_freq_factor or 4.0, llama3.low_freq_factor or 1.0
    if high <= low_factor:
        yield Fault(
            where="context.llama3.high_freq_factor",
            what=f"{high:g} is not above low_freq_factor, {low_factor:g}",
            instead="Write 4 and 1, as Llama 3.1 has them.",
        )
    if longrope.short_factor and not longrope.long_factor:
        yield Fault(
            where="context.longrope.short_factor",
            what="short factors are given and long ones are not",
            instead="Give context.longrope.long_factor too; it has one number for each pair of dimensions.",
        )
    for name in ("short_factor", "long_factor"):
        low = [value for value in getattr(longrope, name) if not value >= 1.0]
        if low:
            yield Fault(
                where=f"context.longrope.{name}",
                what=f"{low[0]:g} is below 1: frequencies are divided by factors, and this one would speed up",
                instead="Write numbers of 1 or more.",
            )
    search = longrope.search
    if search.parents > search.population:
        yield Fault(
            where="context.longrope.search.parents",
            what=f"{search.parents} are more than the population of {search.population}",
            instead=f"Write {search.population} or less.",
        )


def _schedule_faults(recipe: Recipe) -> Iterator[Fault]:
    context = recipe.context
    before = 0
    for number, part in enumerate(context.stages):
        where = f"context.stages[{number}]"
        if part.length <= before:
            yield Fault(
                where=f"{where}.length",
                what=f"{part.length} tokens after {before}: windows of a schedule grow",
                instead="Write them in increasing order, each once.",
            )
        before = part.length
        if part.theta is not None and context.method != "abf":
            yield Fault(
                where=f"{where}.theta",
                what=f"only abf takes a base frequency that is given, and context.method is {context.method}",
                instead="Write context.method=abf, or leave it out.",
            )
    if context.stages and context.stages[-1].length != context.length:
        yield Fault(
            where="context.stages",
            what=f"the last window is {context.stages[-1].length} tokens, and context.length is {context.length}",
            instead=f"End with {{length: {context.length}}}, or write context.length={context.stages[-1].length}.",
        )
    if context.stages and recipe.schedule.max_steps is not None:
        yield Fault(
            where="schedule.max_steps",
            what="the windows of context.stages have steps of their own",
            instead="Give each of them its steps, and leave schedule.max_steps out.",
        )


def _untrained_faults(recipe: Recipe) -> Iterator[Fault]:
    """What says how to train where nothing is trained."""
    context = recipe.context
    if context.stages:
        yield Fault(
            where="context.stages",
            what="they say what is trained, and context.train is false",
            instead="Leave them out, or write context.train=true.",
        )


def _training_faults(recipe: Recipe) -> Iterator[Fault]:
    context, data = recipe.context, recipe.data
    if context.train and not data.name and not data.sources:
        yield Fault(
            where="data.name",
            what="is required, and nothing sets it",
            instead="Write data=./long.txt (documents that are longer than the window the model has), or "
            "context.train=false.",
        )
    if data.max_length != Data.max_length:
        yield Fault(
            where="data.max_length",
            what="here rows are as long as the window that is trained",
            instead="Leave it out; context.length and context.tokens say how long rows are.",
        )
    if data.packing is True:
        yield Fault(
            where="data.packing",
            what="rows laid end to end in a batch have no common length, and memory at long windows is planned by it",
            instead="Write data.packing=best-fit (context.tokens says how long packed rows are), or false.",
        )
    if context.tokens is not None and data.packing is False:
        yield Fault(
            where="context.tokens",
            what="it says how long packed rows are, and data.packing is false",
            instead="Write data.packing=best-fit, or leave it out.",
        )
    if context.tokens is not None and context.positions == "full" and context.tokens < context.length:
        yield Fault(
            where="context.tokens",
            what=f"rows of {context.tokens} tokens never reach context.length={context.length}",
            instead=f"Write {context.length} or more, or context.positions=pose.",
        )
    if context.chunks != _default(context, "chunks") and context.positions != "pose":
        yield Fault(
            where="context.chunks",
            what="documents are cut into chunks by context.positions=pose only",
            instead="Write context.positions=pose, or leave it out.",
        )
    if context.method == "dynamic" and context.train and context.positions == "pose":
        yield Fault(
            where="context.positions",
            what="dynamic NTK follows the length of the row at hand, and rows with skipped positions are short",
            instead="Write context.positions=full, or another context.method.",
        )
    if context.documents == "joined" and data.packing is False:
        yield Fault(
            where="context.documents",
            what="rows are joined where they are packed, and data.packing is false",
            instead="Write data.packing=best-fit, or context.documents=isolated.",
        )
    if context.train and context.also_train and recipe.adapter.kind == "none":
        yield Fault(
            where="context.also_train",
            what="without an adapter everything is trained",
            instead="Leave it out, or write adapter=lora.",
        )
    if recipe.memory.offload is True and recipe.memory.gradient_checkpointing is False:
        yield Fault(
            where="memory.offload",
            what="it moves what gradient checkpointing keeps, and memory.gradient_checkpointing is false",
            instead="Write memory.gradient_checkpointing=true.",
        )


def _default(section: object, name: str) -> object:
    """What a field is where nobody set it."""
    return next(one.default for one in fields(section) if one.name == name)  # type: ignore[arg-type]
