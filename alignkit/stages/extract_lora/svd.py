"""The leading singular triples of a matrix, and of a product of thin factors; pure functions of arrays.

m × n matrix M, rank k: M ≈ U·diag(S)·Vᵀ with U (m, k), S (k,) falling, Vᵀ (k, n).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Matrix: TypeAlias = NDArray[np.float32]
Triples: TypeAlias = tuple[Matrix, Matrix, Matrix]

EXACT_UP_TO = 256
"""Matrices with a side of at most this are cheaper to decompose outright."""
OVERSAMPLE = 10
"""Columns of the sketch beyond the rank (Halko et al. 2011, section 1.3: 5 or 10 do)."""


def leading_svd(matrix: Matrix, rank: int, generator: np.random.Generator, *, iterations: int = 2) -> Triples:
    """The leading `rank` triples, exact for small matrices and for ranks of half their side, else randomised.

    Halko, Martinsson and Tropp 2011, "Finding structure with randomness": the range from a Gaussian sketch with power
    iterations that are orthonormalised at each step (algorithm 4.4), then the SVD of the small Qᵀ·M (algorithm 5.1).
    `iterations` is their q; each lets singular values that are close to one another count apart more clearly.
    """
    rank = min(rank, *matrix.shape)
    width = rank + OVERSAMPLE
    if min(matrix.shape) <= max(EXACT_UP_TO, 2 * width):
        u, s, vt = np.linalg.svd(matrix, full_matrices=False)
        return u[:, :rank], s[:rank], vt[:rank]
    sketch = matrix @ generator.standard_normal((matrix.shape[1], width), dtype=np.float32)  # (m, width)
    q, _ = np.linalg.qr(sketch)
    for _ in range(iterations):
        z, _ = np.linalg.qr(matrix.T @ q)  # (n, width)
        q, _ = np.linalg.qr(matrix @ z)  # (m, width)
    u, s, vt = np.linalg.svd(q.T @ matrix, full_matrices=False)
    return (q @ u)[:, :rank], s[:rank], vt[:rank]


def product_svd(b: Matrix, a: Matrix) -> Triples:
    """All triples of B·A, with B (m, r) and A (r, n), without making the product: B = Q₁R₁, Aᵀ = Q₂R₂, R₁R₂ᵀ = UΣVᵀ."""
    q1, r1 = np.linalg.qr(b.astype(np.float64))
    q2, r2 = np.linalg.qr(a.T.astype(np.float64))
    u, s, vt = np.linalg.svd(r1 @ r2.T)
    k = len(s)
    left, right = q1 @ u[:, :k], vt[:k] @ q2.T
    return left.astype(np.float32), s.astype(np.float32), right.astype(np.float32)


def factors(triples: Triples, rank: int) -> tuple[Matrix, Matrix]:
    """A (rank, n) and B (m, rank) with B·A the best approximation of that rank (Eckart and Young 1936).

    The singular values are shared out evenly, so that neither factor outgrows the other in training or in bf16.
    """
    u, s, vt = triples
    root = np.sqrt(s[:rank])
    return root[:, None] * vt[:rank], u[:, :rank] * root


def rank_for(s: Matrix, total: float, share: float) -> int:
    """The smallest rank whose squared singular values make up `share` of `total` = ‖M‖²; all, where none does."""
    kept = np.cumsum(np.square(s, dtype=np.float64))
    reached = np.flatnonzero(kept >= share * total * (1 - 1e-7))  # fp32 values: 1e-7 is their own noise
    return int(reached[0]) + 1 if len(reached) else len(s)
