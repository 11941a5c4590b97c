"""Weighted means of the weights, and one model's weights as they are.

Linear: Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
increasing inference time" (arXiv 2203.05482), section 2, the uniform soup with a weight for each model.
"""

from __future__ import annotations

from collections.abc import Sequence

from alignkit.stages.merge.methods.method import (
    Floats,
    Merging,
    Method,
    Parameter,
    Values,
    flag,
    number,
    numbers,
    weight,
)
from alignkit.stages.merge.methods.sums import shares, weighted_sum


class Linear(Merging):
    """Σ wᵢ·xᵢ, the weights made to sum to one where asked."""

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = weights

    def combine(self, start: int, chunks: Sequence[Floats], base: Floats | None) -> Floats:
        return weighted_sum(chunks, self.weights)


def _linear(shape: tuple[int, ...], values: Values, key: bytes) -> Merging:
    return Linear(shares(numbers(values, "weight"), bool(number(values, "normalize"))))


def _passthrough(shape: tuple[int, ...], values: Values, key: bytes) -> Merging:
    return Linear(numbers(values, "scale"))


LINEAR = Method(
    name="linear",
    about="weighted mean of the weights",
    paper="Wortsman et al. 2022, arXiv 2203.05482, section 2",
    start=_linear,
    models=(1, None),
    parameters={
        "weight": weight(),
        "normalize": flag(True, "divide by the sum of the weights (unless that is zero)"),
    },
)

PASSTHROUGH = Method(
    name="passthrough",
    about="one model's tensor, times a number: for stacking layers of several models",
    paper="no paper; the layers of one or several models in a row, as in SOLAR (Kim et al. 2023, arXiv 2312.15166)",
    start=_passthrough,
    models=(1, 1),
    parameters={
        "scale": Parameter(default=1.0, per_model=True, about="factor on the tensor"),
    },
)
