"""The formulas of the papers in numpy, written apart from the package: nothing of it is imported here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def rope(theta: float, dim: int) -> Array:
    return 1.0 / np.power(theta, np.arange(0, dim, 2) / dim)


def linear(theta: float, dim: int, s: float) -> Array:
    return rope(theta, dim) / s


def ntk(theta: float, dim: int, s: float) -> Array:
    return rope(theta * s ** (dim / (dim - 2)), dim)


def critical_base(theta: float, window: int, target: int) -> float:
    """log base (window/2pi) of (target/2pi), as a power of theta."""
    return float(theta ** np.emath.logn(window / (2 * np.pi), target / (2 * np.pi)))


def dynamic(theta: float, dim: int, s: float, window: int, length: int) -> Array:
    alpha = s * max(length, window) / window - (s - 1)
    return rope(theta * alpha ** (dim / (dim - 2)), dim)


def yarn(theta: float, dim: int, s: float, window: int, fast: float, slow: float, rounded: bool) -> Array:
    """The paper's correction dimension for r turns is d ln(L/(2 pi r)) / (2 ln theta)."""

    def pair_of(turns: float) -> float:
        return float(dim * np.log(window / (2 * np.pi * turns)) / (2 * np.log(theta)))

    low, high = pair_of(fast), pair_of(slow)
    if rounded:
        low, high = np.floor(low), np.ceil(high)
    low, high = max(low, 0.0), min(high, dim - 1.0)
    if low == high:
        high += 0.001
    pairs = np.arange(len(rope(theta, dim)))
    gamma = 1 - np.clip((pairs - low) / (high - low), 0, 1)
    return (1 - gamma) * rope(theta, dim) / s + gamma * rope(theta, dim)


def yarn_on(known: Array, dim: int, s: float, window: int) -> Array:
    """YaRN with its usual parameters on any falling frequencies, by linear interpolation of their logarithm."""
    turns = np.log(known * window / (2 * np.pi))
    pairs = np.arange(len(known), dtype=float)
    steps = np.diff(turns)

    def pair_of(wanted: float) -> float:
        target = np.log(wanted)
        if target > turns[0]:
            return float((target - turns[0]) / steps[0])
        if target < turns[-1]:
            return float(pairs[-1] + (target - turns[-1]) / steps[-1])
        return float(np.interp(-target, -turns, pairs))

    low, high = max(np.floor(pair_of(32)), 0.0), min(np.ceil(pair_of(1)), dim - 1.0)
    gamma = 1 - np.clip((pairs - low) / (high - low if high > low else 0.001), 0, 1)
    return (1 - gamma) * known / s + gamma * known


def llama3(theta: float, dim: int, s: float, window: int, low: float, high: float) -> Array:
    f = rope(theta, dim)
    return llama3_on(f, s, window, low, high)


def llama3_on(f: Array, s: float, window: int, low: float, high: float) -> Array:
    wavelength = 2 * np.pi / f
    weight = np.clip((window / wavelength - low) / (high - low), 0, 1)
    return weight * f + (1 - weight) * f / s


def longrope(theta: float, dim: int, factors: Array) -> Array:
    return rope(theta, dim) / factors
