"""Merging written from the papers: whole tensors, float64, sorts, no chunks. What the methods are held against.

Nothing here is shared with `alignkit.stages.merge.methods`. Letters: n elements of a tensor, m models; `models` is a
list of m arrays of one shape, `base` an array of that shape, and every result is a float64 array of it. Where a paper
leaves a choice open, the docstring says which one stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NEARLY_PARALLEL = 0.9995
"""Cosine beyond which slerp walks the straight line instead of the arc (Shoemake 1985 leaves the choice open)."""

PARALLEL = 1 - 1e-12
"""Cosine beyond which there is no arc to tell: where nuslerp gives up on it."""


def wide(values: NDArray) -> Array:
    """The same numbers in float64."""
    return np.asarray(values, dtype=np.float64)


def deltas_of(models: Sequence[Array], base: Array) -> list[Array]:
    """Task vectors (Ilharco et al. 2023, section 2)."""
    return [wide(model) - wide(base) for model in models]


def linear(models: Sequence[Array], weight: Sequence[float], *, normalize: bool = True) -> Array:
    """Σ wᵢ θᵢ, over Σ wᵢ with `normalize` (Wortsman et al. 2022, section 2: the uniform soup has equal weights)."""
    total = sum(w * wide(model) for w, model in zip(weight, models, strict=True))
    return wide(total / sum(weight) if normalize else total)


def slerp(first: Array, second: Array, t: float, *, straight: float = NEARLY_PARALLEL) -> Array:
    """The arc from `first` (t = 0) to `second` (t = 1) (Shoemake 1985, section 3.3), angle between the directions.

    The formula is applied to the vectors as they are, so that lengths are interpolated as well; where the cosine is
    beyond ± `straight`, or one vector is zero, the straight line is taken.
    """
    a, b = wide(first), wide(second)
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float(np.sum(a * b)) / length if length > 0 else 1.0
    if abs(cosine) > straight:
        return (1 - t) * a + t * b
    angle = np.arccos(cosine)
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


def nuslerp(
    models: Sequence[Array], weight: Sequence[float], base: Array | None = None, *, wise: str = "tensor"
) -> Array:
    """Slerp at t = w₂ / (w₁ + w₂), of task vectors where there is a base; by whole "tensor", "row" or "column".

    A row is a vector of the last axis, a column one of the first.
    """
    first, second = [wide(m) for m in models] if base is None else deltas_of(models, base)
    t = weight[1] / (weight[0] + weight[1])
    if wise == "tensor" or first.ndim < 2:
        moved = slerp(first, second, t, straight=PARALLEL)
    else:
        axis = -1 if wise == "row" else 0
        rows = zip(*(np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]) for x in (first, second)), strict=True)
        flat = np.stack([slerp(a, b, t, straight=PARALLEL) for a, b in rows])
        moved = np.moveaxis(flat.reshape(np.moveaxis(first, axis, -1).shape), -1, axis)
    return moved if base is None else wide(base) + moved


def log_map(point: Array, at: Array) -> Array:
    """The tangent at the unit vector `at` that leads to the unit vector `point` (Buss and Fillmore 2001, section 3)."""
    cosine = float(np.clip(np.sum(point * at), -1, 1))
    away = point - cosine * at
    length = float(np.linalg.norm(away))
    return away * (np.arctan2(length, cosine) / length) if length > 0 else np.zeros_like(at)


def exp_map(tangent: Array, at: Array) -> Array:
    """Where a tangent at the unit vector `at` leads (Buss and Fillmore 2001, section 3)."""
    length = float(np.linalg.norm(tangent))
    return np.cos(length) * at + (np.sin(length) / length) * tangent if length > 0 else at


def spherical_mean(models: Sequence[Array], weight: Sequence[float], *, steps: int, tol: float) -> Array:
    """`steps` steps of Buss and Fillmore's algorithm A1 from the weighted mean direction, at the mean length."""
    shares = [w / sum(weight) for w in weight]
    vectors = [wide(m) for m in models]
    lengths = [float(np.linalg.norm(v)) for v in vectors]
    units = [v / n if n > 0 else v for v, n in zip(vectors, lengths, strict=True)]
    mean = wide(sum(w * u for w, u in zip(shares, units, strict=True)))
    if np.linalg.norm(mean) == 0:
        return linear(models, weight)
    at = mean / np.linalg.norm(mean)
    for _ in range(steps):
        step = wide(sum(w * log_map(u, at) for w, u in zip(shares, units, strict=True)))
        at = exp_map(step, at)
        at = at / np.linalg.norm(at)
        if np.linalg.norm(step) < tol:
            break
    return at * sum(w * n for w, n in zip(shares, lengths, strict=True))


def task_arithmetic(models: Sequence[Array], base: Array, weight: Sequence[float], *, scale: float = 1.0) -> Array:
    """θ₀ + λ Σ wᵢ τᵢ (Ilharco et al. 2023, section 2)."""
    return wide(base) + scale * wide(sum(w * d for w, d in zip(weight, deltas_of(models, base), strict=True)))


def largest(values: Array, count: int) -> NDArray[np.bool_]:
    """Mask of the `count` elements of largest magnitude; of equal ones those at the lower position."""
    flat = np.abs(values).ravel()
    order = np.argsort(-flat, kind="stable")
    mask = np.zeros(flat.size, dtype=bool)
    mask[order[:count]] = True
    return mask.reshape(values.shape)


def elected(deltas: Sequence[Array], weight: Sequence[float]) -> Array:
    """The sign of the larger total movement, +1 where both are equal (Yadav et al. 2023, section 4.2, "elect")."""
    total = wide(sum(w * d for w, d in zip(weight, deltas, strict=True)))
    return np.where(total >= 0, 1.0, -1.0)


def disjoint(deltas: Sequence[Array], weight: Sequence[float], *, mean: bool) -> Array:
    """Sum of the contributions wᵢ δᵢ that agree with the elected sign; `mean` divides by the weights of those.

    Yadav et al. 2023, section 4.2, "disjoint merge", with weights (the paper's are equal and positive, and then the
    sign of a contribution is that of the task vector). Zeros agree with no sign.
    """
    sign = elected(deltas, weight)
    given = [w * d for w, d in zip(weight, deltas, strict=True)]
    agree = [np.sign(g) == sign for g in given]
    total = wide(sum(np.where(a, g, 0.0) for g, a in zip(given, agree, strict=True)))
    if not mean:
        return total
    weights = wide(sum(w * a for w, a in zip(weight, agree, strict=True)))
    return np.divide(total, weights, out=np.zeros_like(total), where=np.abs(weights) > 1e-8)


def ties(
    models: Sequence[Array],
    base: Array,
    weight: Sequence[float],
    kept: Sequence[int],
    *,
    scale: float = 1.0,
    mean: bool = True,
) -> Array:
    """Trim, elect, disjoint merge (Yadav et al. 2023, section 4.2); `kept` is how many elements each trim leaves."""
    trimmed = [np.where(largest(d, k), d, 0.0) for d, k in zip(deltas_of(models, base), kept, strict=True)]
    return wide(base) + scale * disjoint(trimmed, weight, mean=mean)


def middling(values: Array, top: int, kept: int) -> NDArray[np.bool_]:
    """Mask without the `top` largest magnitudes that keeps the `kept` next ones (Davari and Belilovsky 2024, eq. 1)."""
    return largest(values, top + kept) & ~largest(values, top)


def breadcrumbs(
    models: Sequence[Array],
    base: Array,
    weight: Sequence[float],
    top: Sequence[int],
    kept: Sequence[int],
    *,
    scale: float = 1.0,
    signs: bool = False,
    mean: bool = False,
) -> Array:
    """θ₀ + λ Σ wᵢ mᵢ τᵢ without outliers and trifles (Davari and Belilovsky 2024, eq. 2), with TIES' `signs` or not."""
    masked = [np.where(middling(d, a, k), d, 0.0) for d, a, k in zip(deltas_of(models, base), top, kept, strict=True)]
    if signs:
        return wide(base) + scale * disjoint(masked, weight, mean=mean)
    total = wide(sum(w * d for w, d in zip(weight, masked, strict=True)))
    return wide(base) + scale * (total / sum(weight) if mean else total)


def keep_probabilities(delta: Array, density: float, epsilon: float) -> Array:
    """DELLA's chance of staying for each element (Deep et al. 2024, section 3.1, MAGPRUNE).

    Ranks run by magnitude within a row (the last axis), the chance linearly from density − ε at the smallest to
    density + ε at the largest; a row of one element has density. (The paper's ε is the whole width, and its steps are
    ε/n; here, as in mergekit's documentation, ε is the half width and both ends are reached.)
    """
    rows = np.abs(delta).reshape(-1, delta.shape[-1] if delta.ndim > 1 else delta.size)
    ranks = np.argsort(np.argsort(rows, axis=1, kind="stable"), axis=1)
    width = rows.shape[1]
    if width == 1:
        return np.full(delta.shape, density)
    return (density - epsilon + 2 * epsilon * ranks / (width - 1)).reshape(delta.shape)


def model_stock(models: Sequence[Array], base: Array, *, wise: str = "tensor", least: float = 0.0) -> Array:
    """t · mean + (1 − t) · θ₀ with t = m cos θ / (1 + (m − 1) cos θ) (Jang et al. 2024, eq. 2 and appendix B).

    cos θ is the mean over the pairs of models of the cosine of their task vectors; "row" takes an angle for each row.
    cos θ below `least` counts as `least`: beyond a right angle the formula leaves the simplex of the paper's figure.
    """
    deltas = deltas_of(models, base)
    if wise == "row" and base.ndim > 1:
        flat = [wide(m).reshape(-1, base.shape[-1]) for m in models]
        start = wide(base).reshape(-1, base.shape[-1])
        rows = [model_stock([m[i] for m in flat], start[i], least=least) for i in range(len(start))]
        return np.stack(rows).reshape(base.shape)
    cosines = []
    for i, a in enumerate(deltas):
        for b in deltas[i + 1 :]:
            length = float(np.linalg.norm(a) * np.linalg.norm(b))
            cosines.append(float(np.sum(a * b)) / length if length > 0 else 0.0)
    cosine = max(float(np.mean(cosines)), least)
    count = len(models)
    t = count * cosine / (1 + (count - 1) * cosine)
    return t * wide(sum(wide(m) for m in models)) / count + (1 - t) * wide(base)


def sce(models: Sequence[Array], base: Array, share: float, *, mean: bool = True) -> Array:
    """Select, calculate, erase (Wan et al. 2024, FuseChat, section 3.3, algorithm 1).

    Select the `share` of positions with the largest variance over the models (of those where it is not 0, rounded
    down; 1 selects all); a model's coefficient is its sum of squares over what was selected, over all models' sums;
    erase what disagrees with the sign of the sum over the models. With `mean` the sum at a position is divided by the
    coefficients that are left there.
    """
    deltas = deltas_of(models, base)
    variance = np.var(np.stack(deltas), axis=0)
    kept = max(int(share * np.count_nonzero(variance)), 1)
    chosen = [np.where(largest(variance, kept), d, 0.0) for d in deltas] if share < 1 else deltas
    energy = np.array([np.sum(d * d) for d in chosen])
    if energy.sum() == 0:
        return wide(base)
    share = energy / energy.sum()
    sign = elected(chosen, [1.0] * len(chosen))
    agree = [np.sign(d) == sign for d in chosen]
    total = wide(sum(w * np.where(a, d, 0.0) for w, d, a in zip(share, chosen, agree, strict=True)))
    if mean:
        weights = wide(sum(w * a for w, a in zip(share, agree, strict=True)))
        total = np.divide(total, weights, out=np.zeros_like(total), where=weights != 0)
    return wide(base) + total


def nearswap(base: Array, other: Array, t: float) -> Array:
    """Each element goes t / |difference| of the way to the other model, at most all of it (alchemonaut 2024)."""
    difference = wide(other) - wide(base)
    far = np.abs(difference)
    share = np.minimum(np.divide(t, far, out=np.ones_like(far), where=far != 0), 1.0)
    return wide(base) + share * difference


def importance(base: Array, tuned: Array, eps: float = 1e-8) -> Array:
    """|θ₁ − θ₀| times its row's KL(softmax(θ₁ row) ‖ softmax(θ₀ row)) (Arcee 2025, "importance score").

    A tensor of one axis is one row. `eps` is added to the probabilities, which are not normalised again.
    """

    def softmax(x: Array) -> Array:
        raised = np.exp(x - x.max(axis=-1, keepdims=True))
        return raised / raised.sum(axis=-1, keepdims=True) + eps

    p, q = softmax(wide(tuned)), softmax(wide(base))
    divergence = np.sum(p * np.log(p / q), axis=-1, keepdims=True)
    return np.abs(wide(tuned) - wide(base)) * divergence


def arcee_fusion(base: Array, tuned: Array, quantile: Callable[[Array, float], float] | None = None) -> Array:
    """θ₀ with those elements of θ₁ whose importance reaches median + 1.5 · (Q₃ − Q₁) (Arcee 2025)."""
    score = importance(base, tuned)
    at = quantile or (lambda values, share: float(np.quantile(values, share)))
    limit = at(score, 0.5) + 1.5 * (at(score, 0.75) - at(score, 0.25))
    return np.where(score >= limit, wide(tuned), wide(base))
