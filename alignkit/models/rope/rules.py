"""Inverse frequencies of every way to stretch a rotary position embedding. Plain numbers, no torch.

Letters: d rotated dimensions of a head, n = ceil(d/2) pairs of them, i a pair, s a stretch, L a window in tokens.
An inverse frequency is the angle in radians that a pair turns by from one token to the next; with the angle f, a
pair has the wavelength 2 pi/f in tokens and makes L f/(2 pi) turns within a window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Frequencies:
    """What a rotary module computes with."""

    inverse: tuple[float, ...]
    """(n,) radians a token, from the fastest pair to the slowest."""
    attention: float
    """Factor on cosine and sine, so on query and key each."""


def plain(theta: float, dim: int) -> list[float]:
    """theta^(-2i/d), (n,): the embedding as it was first described (Su et al. 2021, "RoFormer", section 3.2.2)."""
    return [theta ** (-2 * i / dim) for i in range((dim + 1) // 2)]


def interpolated(inverse: Sequence[float], factor: float) -> list[float]:
    """Every frequency over s, as if positions were (Chen et al. 2023, "Position Interpolation", section 2.3)."""
    return [value / factor for value in inverse]


def ntk_theta(theta: float, dim: int, factor: float) -> float:
    """theta s^(d/(d-2)): the slowest pair is stretched by s, the fastest not at all (Peng et al. 2023, section 3.1)."""
    return theta * math.pow(factor, dim / (dim - 2))


def critical_theta(theta: float, dim: int, present: int, target: int) -> float:
    """The base with which the pair that turns once in `target` is the one that turns once in `present` with theta.

    theta^(ln(target/2pi) / ln(present/2pi)), lengths in tokens: the critical base of Liu et al. 2023, "Scaling Laws of
    RoPE-based Extrapolation". Never below NTK's base, which short windows and small bases would fall under.
    """
    least = ntk_theta(theta, dim, target / present)
    if present <= 2 * math.pi:
        return least
    power = math.log(target / (2 * math.pi)) / math.log(present / (2 * math.pi))
    return max(least, math.pow(theta, power))


def dynamic_theta(theta: float, dim: int, factor: float, window: int, length: int) -> float:
    """Base at `length` tokens: theta (s length/L - (s - 1))^(d/(d-2)) beyond the window L, theta within it.

    Dynamic NTK as transformers, vLLM and their checkpoints have it; Peng et al. 2023, section 3.3, is s = 1.
    """
    stretch = factor * max(length, window) / window - (factor - 1)
    return ntk_theta(theta, dim, stretch)


def rebased(inverse: Sequence[float], ratio: float, dim: int) -> list[float]:
    """The frequencies that follow when the base they were made from is `ratio` times as large."""
    return [value * ratio ** (-2 * i / dim) for i, value in enumerate(inverse)]


def yarn(
    inverse: Sequence[float],
    dim: int,
    factor: float,
    window: int,
    *,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
) -> list[float]:
    """Pairs with over `beta_fast` turns in `window` stay, those below `beta_slow` are interpolated, a ramp between.

    "NTK-by-parts" (Peng et al. 2023, "YaRN", section 3.2, definition 2), with the ramp over the index of the
    pair as in the released models, not over turns. The index at which a number of turns is reached is read off the
    frequencies, whose logarithm is a line in the index where they are powers of a base: so the rule holds for
    frequencies that are stretched already too.
    """
    low, high = (_index_of(turns * 2 * math.pi / window, inverse) for turns in (beta_fast, beta_slow))
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001  # a step, as the released code has it
    ramp = [min(max((i - low) / (high - low), 0.0), 1.0) for i in range(len(inverse))]
    return [value * (1 - part) + value / factor * part for value, part in zip(inverse, ramp, strict=True)]


def _index_of(value: float, inverse: Sequence[float]) -> float:
    """Where the falling frequencies pass `value`, as a fractional index; the outer segments reach beyond the ends."""
    if len(inverse) < 2:
        return 0.0
    logs = [math.log(one) for one in inverse]
    wanted = math.log(value)
    i = next((i for i in range(len(logs) - 2) if logs[i + 1] <= wanted), len(logs) - 2)
    slope = logs[i] - logs[i + 1]
    return i + (logs[i] - wanted) / slope if slope > 0 else float(i)


def yarn_attention(factor: float, mscale: float | None = None, mscale_all_dim: float | None = None) -> float:
    """0.1 ln s + 1 (Peng et al. 2023, section 3.4: the root of 1/t, on query and key each), or DeepSeek's ratio."""

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if mscale and mscale_all_dim:
        return scale(mscale) / scale(mscale_all_dim)
    return scale(1.0)


def llama3(
    inverse: Sequence[float], factor: float, window: int, *, low_freq_factor: float = 1.0, high_freq_factor: float = 4.0
) -> list[float]:
    """Pairs by their turns in `window`: above `high` as they are, below `low` over s, a line in turns between.

    The rule of the Llama 3.1 release, whose code has it; its paper (Dubey et al. 2024) names the base only.
    """
    result = []
    for value in inverse:
        turns = window * value / (2 * math.pi)
        if turns < low_freq_factor:
            result.append(value / factor)
        elif turns > high_freq_factor:
            result.append(value)
        else:
            smooth = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor)
            result.append((1 - smooth) * value / factor + smooth * value)
    return result


def longrope_attention(factor: float, window: int) -> float:
    """sqrt(1 + ln s/ln L) (Ding et al. 2024, "LongRoPE", as its released models, Phi-3's, compute it)."""
    return math.sqrt(1 + math.log(factor) / math.log(window)) if factor > 1 else 1.0


def frequencies(
    parameters: Mapping[str, Any], dim: int, *, positions: int, original: int | None = None, length: int | None = None
) -> Frequencies:
    """What a model with these `rope_parameters` (of one layer type) turns by, and its attention factor.

    dim: rotated dimensions d of a head (of `proportional`: all of the head); positions: `max_position_embeddings`;
    original: a window that the configuration keeps outside of `rope_parameters`; length: tokens at hand, which
    dynamic and longrope look at (None: within the window). Raises KeyError for a value that the type needs and
    ValueError for a type that is not known here.
    """
    kind = kind_of(parameters)
    theta = float(parameters["rope_theta"])
    inverse = plain(theta, dim)
    if kind == "default":
        return Frequencies(tuple(inverse), 1.0)
    if kind == "linear":
        return Frequencies(tuple(interpolated(inverse, float(parameters["factor"]))), 1.0)
    if kind == "proportional":
        turning = int(float(parameters.get("partial_rotary_factor") or 1.0) * dim // 2)
        still = [value if i < turning else 0.0 for i, value in enumerate(inverse)]
        return Frequencies(tuple(interpolated(still, float(parameters.get("factor") or 1.0))), 1.0)
    if kind == "dynamic":
        base = dynamic_theta(theta, dim, float(parameters["factor"]), positions, length or positions)
        return Frequencies(tuple(plain(base, dim)), 1.0)
    window = int(original or parameters.get("original_max_position_embeddings") or positions)
    factor = float(parameters.get("factor") or positions / window)
    given = parameters.get("attention_factor")
    if kind == "yarn":
        truncate = parameters.get("truncate")
        inverse = yarn(
            inverse,
            dim,
            factor,
            window,
            beta_fast=float(parameters.get("beta_fast") or 32),
            beta_slow=float(parameters.get("beta_slow") or 1),
            truncate=True if truncate is None else bool(truncate),
        )
        attention = yarn_attention(factor, parameters.get("mscale"), parameters.get("mscale_all_dim"))
        return Frequencies(tuple(inverse), attention if given is None else float(given))
    if kind == "longrope":
        long = length is not None and length > window
        factors = parameters["long_factor" if long else "short_factor"]
        inverse = [value / float(one) for value, one in zip(inverse, factors, strict=True)]
        return Frequencies(tuple(inverse), longrope_attention(factor, window) if given is None else float(given))
    if kind == "llama3":
        low, high = float(parameters["low_freq_factor"]), float(parameters["high_freq_factor"])
        inverse = llama3(inverse, factor, window, low_freq_factor=low, high_freq_factor=high)
        return Frequencies(tuple(inverse), 1.0)
    raise ValueError(f"rope_type {kind} is not known")


_OLD_NAMES = {"su": "longrope", "mrope": "default", "deepseek_yarn": "yarn"}
"""Types by the names that older checkpoints have."""


def kind_of(parameters: Mapping[str, Any]) -> str:
    """The type of one layer type's parameters, in today's name; an absent one is `default`."""
    kind = str(parameters.get("rope_type") or parameters.get("type") or "default")
    return _OLD_NAMES.get(kind, kind)
