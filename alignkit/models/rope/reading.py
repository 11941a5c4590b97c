"""What a configuration says of its rotary positions: window, base, and how it is stretched already. No torch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alignkit.errors import Fault, RequestError
from alignkit.models.rope.positions import other_positions
from alignkit.models.rope.rules import Frequencies, frequencies, kind_of

LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
"""What configurations call the longest input."""
TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional")
"""Types of `rope_parameters` that are read here."""


@dataclass(frozen=True, kw_only=True)
class LayerRope:
    """The rotary embedding of one layer type."""

    parameters: dict[str, Any]
    """Its `rope_parameters`, with `rope_type` and `rope_theta`."""
    dim: int
    """Rotated dimensions of a head; of `proportional`, all of them."""

    @property
    def kind(self) -> str:
        return kind_of(self.parameters)

    @property
    def theta(self) -> float:
        return float(self.parameters["rope_theta"])


@dataclass(frozen=True, kw_only=True)
class RopeState:
    """What a model has. Lengths in tokens."""

    model_type: str
    layers: dict[str, LayerRope]
    """Layer types that look back all the way, which stretching concerns; one without a name where all are alike."""
    untouched: dict[str, Any]
    """Parameters of the other layer types, as they are: a window slides over them, or they have no positions."""
    positions: int
    """`max_position_embeddings`."""
    present: int
    """Longest input."""
    trained: int
    """Longest input at the frequencies that the weights know; below `present` for dynamic NTK, which is untrained."""
    original: int
    """Window before any stretching."""
    stretched: float
    """Stretch of the frequencies that the weights know, over `original`; 1: none."""
    kept_outside: int | None
    """`original_max_position_embeddings` beside `rope_parameters`, where a configuration keeps it there."""
    sliding: int | None
    """Tokens that every layer looks back at most, or None."""

    @property
    def layer(self) -> LayerRope:
        """The first of the layer types that are stretched."""
        return next(iter(self.layers.values()))

    def frequencies(self, layer: LayerRope, length: int | None = None) -> Frequencies:
        """What a layer turns by, for `length` tokens at hand (dynamic and longrope look at it)."""
        return frequencies(
            layer.parameters, layer.dim, positions=self.positions, original=self.kept_outside, length=length
        )

    def joined(self, layers: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """`rope_parameters` in the form of the configuration, with other parameters for `layers`."""
        return layers.get("", {**self.untouched, **layers})


def read_rope(config: Any, original: int | None = None) -> RopeState:
    """The rotary embedding of `config` (a dictionary as in config.json, or a transformers configuration).

    original: the window that the model was first trained at, where its configuration does not say it right.
    Raises RequestError for a model without rotary positions, or of a type or window that is not known.
    """
    values, standard = text_values(config)
    model_type = str(values.get("model_type") or "unknown")
    other = other_positions(values, has_parameters=bool(values.get("rope_parameters")) if standard else None)
    if other is not None:
        raise RequestError(Fault(where="model.name", what=other[0], instead=other[1]))
    nested = _parameters(values)
    layers, untouched = {}, {}
    for name, parameters in nested.items():
        if parameters is None or any(word in name for word in ("sliding", "chunked", "local")):
            untouched[name] = parameters
        else:
            layers[name] = LayerRope(parameters=parameters, dim=_dim(values, name, parameters))
    if not layers:
        raise RequestError(
            Fault(where="model.name", what=f"a window slides over every layer of this {model_type} model")
        )
    first = next(iter(layers.values()))
    if first.kind not in TYPES or "alpha" in first.parameters:
        kind = "dynamic with alpha" if "alpha" in first.parameters else first.kind
        raise RequestError(
            Fault(
                where="model.name",
                what=f"its rotary positions are of the type {kind}, whose stretching is not known here",
                instead="Use a model of one of these types: " + ", ".join(TYPES) + ".",
            )
        )
    positions = next((values[key] for key in LENGTH_KEYS if isinstance(values.get(key), int)), original)
    if positions is None:
        raise RequestError(
            Fault(
                where="context.original",
                what="config.json does not say how many tokens the model was trained at",
                instead="Write context.original=TOKENS.",
            )
        )
    outside = values.get("original_max_position_embeddings")
    kept_outside = outside if isinstance(outside, int) else None
    present, trained, first_window, stretched = _windows(first, positions, kept_outside, original)
    return RopeState(
        model_type=model_type,
        layers=layers,
        untouched=untouched,
        positions=positions,
        present=present,
        trained=trained,
        original=first_window,
        stretched=stretched,
        kept_outside=kept_outside,
        sliding=_sliding(values),
    )


def longest_input(config: Any) -> int | None:
    """Tokens that a model takes by its rotary positions, stretching included; None where it has none or no limit.

    Not always `max_position_embeddings`: dynamic NTK, and some of YaRN's users, keep the original window there.
    """
    try:
        return read_rope(config).present
    except RequestError:
        return None


def describe(config: Any) -> str:
    """One sentence part: `8192 tokens, theta 100000`, or `131072 tokens, llama3 by 8 from 8192, theta 500000`."""
    state = read_rope(config)
    layer = state.layer
    stretched = "" if layer.kind == "default" else f", {layer.kind}"
    if state.present > state.original:
        factor = float(layer.parameters.get("factor") or state.present / state.original)
        stretched += f" by {factor:g} from {state.original}"
    return f"{state.present} tokens{stretched}, theta {layer.theta:g}"


def text_values(config: Any) -> tuple[dict[str, Any], bool]:
    """The values of the text model, and whether transformers has put them into its standard form.

    `head_dims` among them: heads of layer types that have a size of their own (Gemma 4).
    """
    if isinstance(config, Mapping):
        inner = config.get("text_config")
        values = dict(inner) if isinstance(inner, Mapping) else dict(config)
        heads = {"full_attention": values["global_head_dim"]} if values.get("global_head_dim") else {}
        latent = values.get("qk_rope_head_dim")  # the rotated part of DeepSeek's heads, which have two parts
        return {**values, "head_dims": heads, "head_dim": latent or values.get("head_dim")}, False
    text = config.get_text_config(decoder=True)
    return {**text.to_dict(), "head_dims": _head_dims(text)}, True


def _head_dims(text: Any) -> dict[str, int]:
    heads = {}
    for name in getattr(text, "rope_parameters", None) or {}:
        try:
            heads[name] = int(text.per_layer_config[name].head_dim)
        except (AttributeError, KeyError, TypeError, ValueError):
            continue  # not a model whose layers differ in their heads, or a transformers that knows none
    return heads


def _parameters(values: Mapping[str, Any]) -> dict[str, dict[str, Any] | None]:
    """`rope_parameters` by layer type, "" where all layers are alike, from today's form or the ones before it."""
    given = copy.deepcopy(values.get("rope_parameters") or values.get("rope_scaling") or {})
    if given and all(value is None or isinstance(value, Mapping) for value in given.values()):
        return {str(name): _whole(one, values) if one is not None else None for name, one in given.items()}
    local = values.get("rope_local_base_freq")
    if local is None:
        return {"": _whole(given, values)}
    return {
        "full_attention": _whole(given, values),
        "sliding_attention": {"rope_type": "default", "rope_theta": float(local)},
    }


def _whole(parameters: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """With a type, a base and the rotated part; the last two stood beside it in older files."""
    whole = {key: value for key, value in parameters.items() if key != "type"}
    whole["rope_type"] = kind_of(parameters)
    theta = values.get("rope_theta", values.get("rotary_emb_base"))
    whole.setdefault("rope_theta", float(theta) if theta is not None else 10000.0)
    partial = values.get("partial_rotary_factor", values.get("rotary_pct"))
    if partial is not None:
        whole.setdefault("partial_rotary_factor", float(partial))
    return whole


def _dim(values: Mapping[str, Any], layer: str, parameters: Mapping[str, Any]) -> int:
    head = values["head_dims"].get(layer) or values.get("head_dim")
    if not head:
        head = (values.get("hidden_size") or 0) // (values.get("num_attention_heads") or 1)
    partial = 1.0 if kind_of(parameters) == "proportional" else float(parameters.get("partial_rotary_factor") or 1.0)
    return int(head * partial)


def _windows(
    layer: LayerRope, positions: int, outside: int | None, original: int | None
) -> tuple[int, int, int, float]:
    """Present, trained and original window, and the stretch of the trained one over the original one."""
    kind, given = layer.kind, layer.parameters.get("factor")
    factor = float(given or 1.0)
    if kind == "dynamic":
        window = original or positions
        return round(window * factor), window, window, 1.0
    if kind in ("linear", "proportional"):
        # config.json counts max_position_embeddings after the stretch, as transformers' own models do.
        present = round(original * factor) if original else positions
        return present, present, original or round(positions / factor), factor
    if kind == "default":
        return original or positions, original or positions, original or positions, 1.0
    window = original or outside or int(layer.parameters.get("original_max_position_embeddings") or positions)
    factor = float(given or positions / window)
    # Some keep max_position_embeddings at the original window and let the factor speak (Qwen's cards do).
    present = round(window * factor) if kind == "yarn" and (original or positions <= window) else positions
    return present, present, window, factor


def _sliding(values: Mapping[str, Any]) -> int | None:
    window = values.get("sliding_window")
    types = values.get("layer_types")
    if not isinstance(window, int) or values.get("use_sliding_window") is False:
        return None
    return window if not types or all("sliding" in str(one) for one in types) else None
