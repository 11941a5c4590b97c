"""NearSwap: the base, moved towards a model where the two are near each other.

No paper: alchemonaut 2024, https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001. The share of the model is
min(1, t / |x − x₀|), which makes the result x₀ + clip(x − x₀, −t, t): elements within t of each other become the
model's, others move by t.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignkit.stages.merge.methods.method import Floats, Merging, Method, Parameter, Values, number
from alignkit.stages.merge.methods.sums import blocks


class NearSwap(Merging):
    """x₀ + clip(x − x₀, −t, t)."""

    def __init__(self, t: float) -> None:
        self.t = np.float32(t)

    def combine(self, start: int, chunks: Sequence[Floats], base: Floats | None) -> Floats:
        assert base is not None
        out = np.empty(len(base), np.float32)
        for block in blocks(len(base)):
            part = np.subtract(chunks[0][block], base[block], out=out[block])
            np.clip(part, -self.t, self.t, out=part)
            part += base[block]
        return out


def _nearswap(shape: tuple[int, ...], values: Values, key: bytes) -> Merging:
    return NearSwap(number(values, "t"))


NEARSWAP = Method(
    name="nearswap",
    about="the base, moved by at most t towards the model",
    paper="no paper; alchemonaut 2024, QuartetAnemoi-70B-t0.0001",
    start=_nearswap,
    models=(1, 1),
    base="needed",
    parameters={"t": Parameter(default=0.001, low=0.0, about="how far an element moves at most")},
)
