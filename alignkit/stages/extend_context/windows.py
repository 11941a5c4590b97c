"""From a recipe and the model's window to the windows that are trained, their rows and their frequencies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.config.rope import RopeOptions
from alignkit.console import log
from alignkit.data.rows import Encoded
from alignkit.errors import Fault, RequestError
from alignkit.models.rope import RopePlan, plan_rope
from alignkit.stages.extend_context.curriculum import Curriculum, Part, Window, part_of
from alignkit.stages.extend_context.recipe import Recipe


def windows(recipe: Recipe, before: int) -> list[Window]:
    """The schedule, resolved. ``before``: tokens that the model reads now."""
    context = recipe.context
    found = []
    for part in recipe.parts():
        tokens = before if context.positions == "pose" else part.length
        room = max(tokens, context.tokens or 0)
        found.append(Window(part.length, tokens, room, part.theta, part.steps))
    return found


def plans(recipe: Recipe, options: RopeOptions, config: Any) -> list[RopePlan]:
    """The frequencies of each window, in order; the last one's are the model's in the end."""
    found = []
    for part in recipe.parts():
        theta = part.theta if part.theta is not None else options.theta
        found.append(plan_rope(config, replace(options, theta=theta), part.length))
    return found


def curriculum(recipe: Recipe, rows: Sequence[Encoded], lengths: NDArray[Any], before: int) -> Curriculum:
    """The rows of every window. Raises RequestError where none fit."""
    parts = []
    for window in windows(recipe, before):
        try:
            parts.append(
                part_of(
                    rows,
                    lengths,
                    window,
                    batch=recipe.batch.size,
                    epochs=recipe.schedule.epochs,
                    pack=recipe.data.packing == "best-fit",
                    seed=recipe.seed,
                )
            )
        except ValueError as error:
            raise RequestError(
                Fault(where="context.stages", what=f"of the window of {window.length} tokens {error}")
            ) from error
    return Curriculum(rows, parts, batch=recipe.batch.size, seed=recipe.seed)


def describe(parts: Sequence[Part]) -> list[str]:
    """What each window is trained on, a sentence each."""
    said = []
    for part in parts:
        window = part.window
        theta = f" (theta {window.theta:,.0f})" if window.theta is not None else ""
        skipped = f"; positions skip ahead up to {window.length:,}" if window.tokens < window.length else ""
        left = f"; {part.left_out:,} longer conversations are left out" if part.left_out else ""
        said.append(
            f"window of {window.length:,} tokens{theta}: {len(part.cuts):,} documents of at most {window.tokens:,} "
            f"tokens in {len(part.blocks):,} packed rows of at most {window.room:,} ({part.fill:.0%} full), "
            f"{part.steps:,} steps{skipped}{left}"
        )
    return said


def require_long(recipe: Recipe, lengths: NDArray[Any], before: int) -> list[str]:
    """What the rows teach that the old window could not, in sentences. ``lengths``: (R,) tokens of the training rows.

    Raises RequestError where not one document is longer than the old window, and nothing was done about it: there would
    be nothing to learn.
    """
    context = recipe.context
    longest, beyond = int(lengths.max()), lengths > before
    if not beyond.any() and context.documents == "isolated" and context.positions == "full":
        raise RequestError(
            Fault(
                where="data",
                what=f"no document is longer than the window that the model has, {before:,} tokens (the longest has "
                f"{longest:,}), so training would teach it nothing about a longer one",
                instead="Add long documents; or write context.positions=pose (positions skip ahead), or "
                "context.documents=joined (short ones become long rows, without long dependencies).",
            )
        )
    if context.positions == "pose":
        return []
    if not beyond.any():
        return [
            f"no document is longer than the old window of {before:,} tokens: joined rows teach positions, and nothing "
            "that depends on what lies far back"
        ]
    said = [
        f"{beyond.sum():,} of {len(lengths):,} rows are longer than the old window of {before:,} tokens and hold "
        f"{lengths[beyond].sum() / lengths.sum():.0%} of the tokens; the median row has {int(np.median(lengths)):,}"
    ]
    if longest <= context.length // 2 and context.documents == "isolated":
        log.warn(
            f"the longest document has {longest:,} tokens, and the new window is {context.length:,}: positions beyond "
            "are not trained"
        )
    return said
