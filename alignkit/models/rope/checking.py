"""What cannot work, told from a configuration before anything is loaded. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from alignkit.config.rope import RopeOptions
from alignkit.errors import Fault, RequestError
from alignkit.models.rope.compose import ONLY_LONGROPE
from alignkit.models.rope.reading import LayerRope, RopeState, read_rope


def rope_faults(config: Any, options: RopeOptions, target: int) -> Iterator[Fault]:
    """Everything against stretching this model to `target` tokens by these options.

    config: what config.json holds, or a transformers configuration. Combinations of options alone are the recipe's.
    """
    try:
        state = read_rope(config, options.original)
    except RequestError as error:
        yield from error.faults
        return
    yield from _length_faults(state, options, target)
    for layer in state.layers.values():
        faults = [*_type_faults(layer, state, options), *_value_faults(layer, options)]
        if faults:
            yield from faults
            return


def _length_faults(state: RopeState, options: RopeOptions, target: int) -> Iterator[Fault]:
    if target <= state.present:
        stretched = f", {state.layer.kind} included" if state.present > state.original else ""
        yield Fault(
            where="context.length",
            what=f"the model takes {state.present} tokens already{stretched}, which {target} is not above",
            instead="Write a larger length; to train on long rows as the model is, use recipe=sft or recipe=lora.",
        )
    if options.original is not None and options.original > target:
        yield Fault(
            where="context.original",
            what=f"an original window of {options.original} tokens is longer than the target of {target}",
            instead="It is the window that the model was first trained at; leave it out to read it from the model.",
        )
    if options.factor is None:
        return
    if options.method == "longrope":
        yield Fault(
            where="context.factor",
            what="longrope is stretched by the factors of its pairs, and has no use for one of all",
            instead="Leave it out.",
        )
        return
    least = target / state.trained * state.stretched
    if target > state.present and options.factor < least * (1 - 1e-6):
        over = f"{state.original} tokens"
        earlier = f" (it is stretched by {state.stretched:g} now)" if state.stretched > 1 else ""
        yield Fault(
            where="context.factor",
            what=f"{options.factor:g} times {over}{earlier} do not reach the {target} of context.length",
            instead=f"Write {least:g} or more, or leave it out.",
        )


def _type_faults(layer: LayerRope, state: RopeState, options: RopeOptions) -> Iterator[Fault]:
    """What the type that the model has rules out."""
    method = options.method
    if layer.kind == "proportional" and method not in ("linear", "ntk", "abf"):
        yield Fault(
            where="context.method",
            what=f"a {state.model_type} model rotates some of its pairs only, and {method} has no form for that",
            instead="Write context.method=ntk, abf or linear.",
        )
    elif method == "dynamic" and (layer.kind not in ("default", "dynamic") or state.model_type in ONLY_LONGROPE):
        had = f"it is stretched by {layer.kind} already"
        if layer.kind in ("default", "dynamic"):
            had = f"the configuration of a {state.model_type} model takes none but longrope"
        yield Fault(
            where="context.method",
            what=f"dynamic NTK moves the base of a model that is not stretched, and {had}",
            instead="Write context.method=ntk, which composes with it.",
        )
    if layer.dim < 4:
        yield Fault(where="model.name", what=f"{layer.dim} rotated dimensions of a head are too few to stretch")


def _value_faults(layer: LayerRope, options: RopeOptions) -> Iterator[Fault]:
    """Values that do not fit the model."""
    if options.method == "abf" and options.theta is not None and options.theta <= layer.theta:
        yield Fault(
            where="context.theta",
            what=f"{options.theta:g} is not above the base that the model has, {layer.theta:g}",
            instead="A longer window needs a larger one; leave it out for the critical base.",
        )
    if options.method == "longrope":
        pairs = (layer.dim + 1) // 2
        for name in ("short_factor", "long_factor"):
            given = getattr(options.longrope, name)
            if given and len(given) != pairs:
                yield Fault(
                    where=f"context.longrope.{name}",
                    what=f"{len(given)} factors, and the model rotates {pairs} pairs of dimensions",
                    instead=f"Give {pairs}, from the fastest pair to the slowest.",
                )
