"""From a configuration, a method and a length to the values that the configuration gets. No torch."""

from __future__ import annotations

from typing import Any

from alignkit.config.rope import RopeOptions
from alignkit.errors import RequestError
from alignkit.models.rope.checking import rope_faults
from alignkit.models.rope.compose import Stretch, compose
from alignkit.models.rope.plan import RopePlan
from alignkit.models.rope.reading import RopeState, read_rope


def plan_rope(config: Any, options: RopeOptions, target: int) -> RopePlan:
    """What the configuration of a model must say so that it takes `target` tokens.

    config: a transformers configuration (or what its config.json holds); it is not changed. Layer types that a window
    slides over keep what they have. Raises RequestError with every fault, and ValueError for longrope whose factors
    have not been searched yet.
    """
    faults = list(rope_faults(config, options, target))
    if faults:
        raise RequestError(faults)
    state = read_rope(config, options.original)
    stretch = Stretch(state, options, target)
    layers = {name: compose(layer, stretch) for name, layer in state.layers.items()}
    dynamic = options.method == "dynamic"
    first = next(iter(layers.values()))
    return RopePlan(
        method=options.method,
        parameters=state.joined(layers),
        positions=state.original if dynamic else target,
        target=target,
        present=state.present,
        original=state.original,
        factor=stretch.total,
        said=_said(stretch, first),
        notes=tuple(_notes(state, options, first)),
    )


def _said(stretch: Stretch, parameters: dict[str, Any]) -> str:
    state, options = stretch.state, stretch.options
    before, after = state.layer.theta, float(parameters["rope_theta"])
    theta = f"theta {before:g}" if before == after else f"theta {before:g} becomes {after:g}"
    text = f"{options.method} stretches {state.present} tokens to {stretch.target} ({theta}"
    if state.stretched > 1:
        text += f"; {state.layer.kind} had stretched {state.original} by {state.stretched:g}"
    if parameters["rope_type"] == "longrope" and options.method != "longrope":
        text += "; written as longrope, one factor for each pair of dimensions"
    return text + ")."


def _notes(state: RopeState, options: RopeOptions, parameters: dict[str, Any]) -> list[str]:
    """Where other readers of config.json part from transformers."""
    kind, notes = parameters["rope_type"], []
    if kind == "dynamic":
        notes.append(
            "Only transformers follows dynamic NTK: vLLM leaves the base as it is and llama.cpp has no such type. "
            "context.method=ntk is read everywhere."
        )
    if kind == "linear":
        notes.append(
            "vLLM takes max_position_embeddings times the factor for the longest input: start it with --max-model-len."
        )
    if kind == "longrope":
        notes.append("llama.cpp reads the factors of longrope for a few architectures only (Phi-3, MiniCPM).")
    if kind == "longrope" and "" not in state.layers:
        notes.append(
            "transformers 5.17 stops at long inputs of a model whose layers are of several types with longrope "
            "(mended in 5.23)."
        )
    if kind == "yarn" and "attention_factor" in parameters:
        notes.append("llama.cpp multiplies its own 0.1 ln(s) + 1 by attention_factor, where transformers replaces it.")
    if state.sliding is not None and state.sliding <= state.present:
        notes.append(
            f"A window of {state.sliding} tokens slides over every layer, so no distance is longer than that whatever "
            "the rotary positions are."
        )
    return notes
