"""Linear layers that read the same few rows, as one: what they have in common is computed once.

The queries, keys and values of a layer come from one input, and so do both halves of a gated MLP: one cast of the
input, one product with the A of all adapters, one cast of the results each way, in memory that is used again for each
token. For reading only.

n rows, i input and o output features of all layers together, r rank of all together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Factors: TypeAlias = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, float]
"""Weight (o, i) and bias (o,) of a layer in bf16, the A (r, i) and B (o, r) of its adapter in fp32 or None, and its
scale."""


class Joint:
    """Layers of one input: called with (n, i) it gives (n, o), the layers' results beside each other, in bf16."""

    def __init__(self, layers: Sequence[Factors], *, turned: bool = False) -> None:
        """``turned``: results may lie column by column, for elementwise functions and products that take them so."""
        self.turned = turned
        self.weights = [(weight, bias) for weight, bias, *_ in layers]
        self.outputs = [len(weight) for weight, _ in self.weights]
        self.inputs = self.weights[0][0].shape[1]
        self.factors = [(a, b, scale) for _, _, a, b, scale in layers if a is not None and b is not None]
        self.adapted = len(self.factors) == len(layers)
        self.spaces: dict[int, _Space] = {}
        if self.adapted:
            self.a = torch.cat([a for a, _, _ in self.factors]).float()  # (r, i)
            self.ranks = [len(a) for a, _, _ in self.factors]
            self.bs = [(b.float() if turned else b.float().t(), scale) for _, b, scale in self.factors]

    def __call__(self, flat: Tensor) -> Tensor:
        n, turned = flat.shape[0], flat.t()
        space = self.spaces.get(n)
        if space is None:
            space = self.spaces[n] = _Space(self, n)
        for (weight, _), part in zip(self.weights, space.products, strict=True):
            torch.mm(weight, turned, out=part)
        wide = space.wide.copy_(space.product)
        if self.adapted and self.turned:
            torch.mm(self.a, space.x.copy_(turned), out=space.inner)
            for (b, scale), part, low in zip(self.bs, space.parts, space.inners, strict=True):
                part.addmm_(b, low, alpha=scale)
        elif self.adapted:
            torch.mm(space.x.copy_(flat), self.a.t(), out=space.inner)
            for (b, scale), part, low in zip(self.bs, space.parts, space.inners, strict=True):
                part.addmm_(low, b, alpha=scale)
        for (_, bias), part in zip(self.weights, space.parts, strict=True):
            if bias is not None:
                part += bias[:, None] if self.turned else bias
        low_precision = wide.to(torch.bfloat16)
        return low_precision.t() if self.turned else low_precision


class _Space:
    """Memory for n rows. Turned, everything lies column by column."""

    def __init__(self, joint: Joint, n: int) -> None:
        turned, outputs = joint.turned, joint.outputs
        product = torch.empty(sum(outputs), n, dtype=torch.bfloat16)
        self.products = product.split(outputs)
        self.product = product if turned else product.t()
        self.wide = self._empty(sum(outputs), n, turned)
        self.parts = self.wide.split(outputs, 0 if turned else 1)
        if joint.adapted:
            self.x, self.inner = self._empty(joint.inputs, n, turned), self._empty(sum(joint.ranks), n, turned)
            self.inners = self.inner.split(joint.ranks, 0 if turned else 1)

    @staticmethod
    def _empty(features: int, n: int, turned: bool) -> Tensor:
        return torch.empty((features, n) if turned else (n, features))
