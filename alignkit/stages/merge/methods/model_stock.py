"""Model stock: between the base and the mean of the models, the nearer to the mean the more they agree.

Jang et al. 2024, "Model stock: all we need is just a few fine-tuned models" (arXiv 2403.19522), eq. 2 and appendix B:
θ = t·θ̄ + (1 − t)·θ₀ with t = N·cos / (1 + (N − 1)·cos), cos of the angle between two task vectors. For more than two
models it is the mean over their pairs. The paper derives it for angles up to 90°, where t lies in 0 … 1; a mean cosine
below 0 counts as 0 here (mergekit lets t go below 0). A task vector of no length has cosine 0 with all others.
"""

from __future__ import annotations

import numpy as np

from alignkit.stages.merge.methods.grams import ByGram, ByRows, row_width
from alignkit.stages.merge.methods.method import Doubles, Merging, Method, Values, flag, number


def coefficients(gram: Doubles) -> Doubles:
    """(r, m, m) Gram matrices of task vectors → (r, m): t/m for each."""
    count = gram.shape[-1]
    lengths = np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1))
    products = lengths[:, :, None] * lengths[:, None, :]
    cosines = np.divide(gram, products, out=np.zeros_like(gram), where=products > 0)
    first, second = np.triu_indices(count, 1)
    cosine = np.clip(cosines[:, first, second].mean(-1), 0.0, 1.0)
    ratio = count * cosine / (1.0 + (count - 1) * cosine)  # (r,)
    return np.repeat(ratio[:, None] / count, count, axis=1)


def _model_stock(shape: tuple[int, ...], values: Values, key: bytes) -> Merging:
    return ByRows(coefficients, row_width(shape)) if number(values, "row_wise") else ByGram(coefficients)


MODEL_STOCK = Method(
    name="model_stock",
    about="between the base and the mean of the models, as far as the angles between the task vectors say",
    paper="Jang et al. 2024, arXiv 2403.19522, eq. 2 and appendix B",
    start=_model_stock,
    models=(2, None),
    base="needed",
    parameters={"row_wise": flag(False, "each row of a matrix by itself")},
)
