"""A key-value cache that grows in place. The stock one copies everything it holds for each new token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

SLACK = 64
"""Tokens of room made each time a layer has run full."""


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """A full-attention layer's keys and values, as views of buffers with room at their end.

    For reading only: it writes in place, which a backward pass would not survive.
    """

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self.keys, self.values = layer.keys, layer.values  # (B, heads, S, D)
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (B, heads, n, D) and return all keys and values."""
        start, end = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if self._buffers is None or not self._holds(self._buffers, end):
            self._buffers = (_roomier(self.keys, end), _roomier(self.values, end))
        keys, values = self._buffers
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def _holds(self, buffers: tuple[Tensor, Tensor], end: int) -> bool:
        """Whether the keys still lie in the buffer, with room left. Dropping rows makes new tensors, cropping none."""
        keys = buffers[0]
        return keys.data_ptr() == self.keys.data_ptr() and len(keys) == len(self.keys) and end <= keys.shape[-2]


def grow_in_place(cache: Any) -> None:
    """Exchange the plain full-attention layers of a cache that has been written to; others stay as they are."""
    for index, layer in enumerate(getattr(cache, "layers", ())):
        if type(layer) is DynamicLayer and layer.is_initialized:
            cache.layers[index] = GrowingLayer(layer)


def _roomier(held: Tensor, end: int) -> Tensor:
    """A buffer that begins with ``held`` and has room beyond ``end`` tokens."""
    buffer = torch.empty(*held.shape[:2], end + SLACK, held.shape[-1], dtype=held.dtype, device=held.device)
    buffer[:, :, : held.shape[-2]] = held
    return buffer
