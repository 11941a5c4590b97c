"""One layer type's `rope_parameters` after a method was put on top of what the model has. No torch.

A checkpoint that is stretched already is stretched on: its weights know the frequencies it has, so a method is applied
to those, with the window they were trained at as the original one. Where the same method was used before, this is the
method itself by both factors together, counted from the first window (Peng et al. 2023, section 4.1, go from 16 to 32
so). What no named type holds exactly is written as `longrope`, which takes one factor for each pair of dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alignkit.config.rope import RopeOptions
from alignkit.models.rope import rules
from alignkit.models.rope.reading import LayerRope, RopeState
from alignkit.models.rope.rules import Frequencies

OF_TYPES = frozenset(
    (
        *("rope_type", "type", "factor", "original_max_position_embeddings", "finetuned"),
        *("attention_factor", "attn_factor", "mscale", "mscale_all_dim", "short_mscale", "long_mscale"),
        *("beta_fast", "beta_slow", "truncate"),
        *("short_factor", "long_factor", "low_freq_factor", "high_freq_factor"),
    )
)
"""Keys that belong to a type; the others (base, rotated part, sections of several axes) are kept by every method."""
ONLY_LONGROPE = ("phi3", "phi4_multimodal", "phi4mm")
"""Models whose configurations take no type but default and longrope."""


@dataclass(frozen=True)
class Stretch:
    """By how much, from where to where. Lengths in tokens."""

    state: RopeState
    options: RopeOptions
    target: int

    @property
    def more(self) -> float:
        """Stretch over the frequencies that the weights know."""
        given = self.options.factor
        return given / self.state.stretched if given is not None else self.target / self.state.trained

    @property
    def total(self) -> float:
        """Stretch over the original window."""
        return self.state.stretched * self.more


def compose(layer: LayerRope, stretch: Stretch) -> dict[str, Any]:
    """The new parameters of `layer`. Combinations that cannot be are refused before, in checking.py."""
    rule = {
        "linear": _linear,
        "ntk": _rebased,
        "abf": _rebased,
        "dynamic": _dynamic,
        "yarn": _yarn,
        "longrope": _longrope,
        "llama3": _llama3,
    }[stretch.options.method]
    parameters = rule(layer, stretch)
    if stretch.state.model_type in ONLY_LONGROPE and parameters["rope_type"] not in ("default", "longrope"):
        found = rules.frequencies(parameters, layer.dim, positions=stretch.target)
        parameters = _by_pair(layer, stretch, found.inverse, found.attention)
    return parameters


def _kept(layer: LayerRope, kind: str) -> dict[str, Any]:
    return {"rope_type": kind, **{key: value for key, value in layer.parameters.items() if key not in OF_TYPES}}


def _known(layer: LayerRope, stretch: Stretch) -> Frequencies:
    """The frequencies that the weights know: of longrope, those for long inputs."""
    length = stretch.state.present if layer.kind == "longrope" else None
    return stretch.state.frequencies(layer, length)


def _linear(layer: LayerRope, stretch: Stretch) -> dict[str, Any]:
    if layer.kind in ("default", "dynamic"):
        return {**_kept(layer, "linear"), "factor": stretch.more}
    if layer.kind in ("linear", "proportional"):
        return {**layer.parameters, "factor": float(layer.parameters.get("factor") or 1.0) * stretch.more}
    known = _known(layer, stretch)
    return _by_pair(layer, stretch, rules.interpolated(known.inverse, stretch.more), known.attention)


def new_theta(layer: LayerRope, stretch: Stretch) -> float:
    """The base that ntk and abf give."""
    options = stretch.options
    if options.method == "abf" and options.theta is not None:
        return options.theta
    if options.method == "abf" and options.factor is None:
        return rules.critical_theta(layer.theta, layer.dim, stretch.state.trained, stretch.target)
    return rules.ntk_theta(layer.theta, layer.dim, stretch.more)


def _rebased(layer: LayerRope, stretch: Stretch) -> dict[str, Any]:
    theta = new_theta(layer, stretch)
    if layer.kind in ("default", "dynamic"):
        return {**_kept(layer, "default"), "rope_theta": theta}
    if layer.kind in ("linear", "proportional"):
        return {**layer.parameters, "rope_theta": theta}
    known = _known(layer, stretch)
    inverse = rules.rebased(known.inverse, theta / layer.theta, layer.dim)
    return _by_pair(layer, stretch, inverse, known.attention)


def _dynamic(layer: LayerRope, stretch: Stretch) -> dict[str, Any]:
    return {**_kept(layer, "dynamic"), "factor": stretch.total}


def _yarn(layer: LayerRope, stretch: Stretch) -> dict[str, Any]:
    asked = stretch.options.yarn
    again = layer.kind == "yarn"
    before = layer.parameters if again else {}
    shape = {}
    for name in ("beta_fast", "beta_slow", "truncate", "mscale", "mscale_all_dim"):
        value = getattr(asked, name)
        value = before.get(name) if value is None else value
        if value is not None:
            shape[name] = value
    if again or layer.kind in ("default", "dynamic"):
        parameters = {
            **_kept(layer, "yarn"),
            "factor": stretch.total,
            "original_max_position_embeddings": stretch.state.original,
            **shape,
        }
        given = asked.attention_factor if asked.attention_factor is not None else _kept_attention(layer, stretch)
        if given is not None:
            # attention_factor is transformers' name; vLLM multiplies its own formula by attn_factor.
            parameters |= {"attention_factor": given, "attn_factor": given / rules.yarn_attention(stretch.total)}
        return parameters
    known = _known(layer, stretch)
    inverse = rules.yarn(
        known.inverse,
        layer.dim,
        stretch.more,
        stretch.state.trained,
        beta_fast=asked.beta_fast or 32.0,
        beta_slow=asked.beta_slow or 1.0,
        truncate=asked.truncate is not False,
    )
    attention = asked.attention_factor
    if attention is None:
        attention = known.attention * rules.yarn_attention(stretch.more, asked.mscale, asked.mscale_all_dim)
    return _by_pair(layer, stretch, inverse, attention)


def _kept_attention(layer: LayerRope, stretch: Stretch) -> float | None:
    """The factor of a model that YaRN has stretched before, where it is not the formula's: someone has chosen it."""
    given = layer.parameters.get("attention_factor") if layer.kind == "yarn" else None
    if given is None:
        return None
    formulas = (
        rules.yarn_attention(stretch.state.stretched),
        rules.yarn_attention(
            stretch.state.stretched, layer.parameters.get("mscale"), layer.parameters.get("mscale_all_dim")
        ),
    )
    return None if any(math.isclose(given, one, rel_tol=1e-4) for one in formulas) else float(given)


def _llama3(layer: LayerRope, stretch: Stretch) -> dict[str, Any]:
    asked = stretch.options.llama3
    again = layer.kind == "llama3"
    before = layer.parameters if again else {}
    low = float(asked.low_freq_factor or before.get("low_freq_factor") or 1.0)
    high = float(asked.high_freq_factor or before.get("high_freq_factor") or 4.0)
    if again or layer.kind in ("default", "dynamic"):
        return {
            **_kept(layer, "llama3"),
            "factor": stretch.total,
            "original_max_position_embeddings": stretch.state.original,
            "low_freq_factor": low,
            "high_freq_factor": high,
        }
    known = _known(layer, stretch)
    inverse = rules.llama3(
        known.inverse, stretch.more, stretch.state.trained, low_freq_factor=low, high_freq_factor=high
    )
    return _by_pair(layer, stretch, inverse, known.attention)


def _longrope(layer: LayerRope, stretch: Stretch) -> dict[str, Any]:
    asked = stretch.options.longrope
    if not asked.long_factor:
        raise ValueError("the factors of longrope are searched first (search.py), and then planned with")
    window = stretch.state.original if layer.kind == "longrope" else stretch.state.trained
    parameters = {
        **_kept(layer, "longrope"),
        "short_factor": list(asked.short_factor) or present_factors(layer, stretch.state),
        "long_factor": [float(value) for value in asked.long_factor],
        "factor": stretch.target / window,
        "original_max_position_embeddings": window,
    }
    attention = asked.attention_factor
    if attention is None and layer.kind not in ("default", "dynamic", "longrope"):
        attention = _known(layer, stretch).attention * rules.longrope_attention(stretch.target / window, window)
    return parameters if attention is None else {**parameters, **_attention(attention)}


def present_factors(layer: LayerRope, state: RopeState) -> list[float]:
    """Factors of short inputs that leave a model as it is; all 1 where nothing is stretched yet."""
    if layer.kind == "longrope":
        return [float(value) for value in layer.parameters["short_factor"]]
    return _factors(layer, state.frequencies(layer).inverse)


def _by_pair(layer: LayerRope, stretch: Stretch, inverse: Sequence[float], attention: float) -> dict[str, Any]:
    """Any frequencies, as factors of `longrope`; a model that knew short inputs by other ones keeps those."""
    factors = _factors(layer, inverse)
    window = stretch.state.original
    return {
        **_kept(layer, "longrope"),
        "short_factor": present_factors(layer, stretch.state) if layer.kind == "longrope" else factors,
        "long_factor": factors,
        "factor": stretch.target / window,
        "original_max_position_embeddings": window,
        **_attention(attention),
    }


def _factors(layer: LayerRope, inverse: Sequence[float]) -> list[float]:
    return [one / value for one, value in zip(rules.plain(layer.theta, layer.dim), inverse, strict=True)]


def _attention(value: float) -> dict[str, float]:
    """A given attention factor of longrope, by transformers' name and by vLLM's two."""
    return {"attention_factor": value, "short_mscale": value, "long_mscale": value}
