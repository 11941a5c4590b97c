"""A teacher that computes as if some of its parts were not there: layers passed by, heads, neurons, channels at 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from alignkit.models.students.anatomy import Anatomy
from alignkit.models.students.plan import Plan


@contextmanager
def skipped(anatomy: Anatomy, layers: Sequence[int]) -> Iterator[None]:
    """Let these layers give what they were given."""
    handles = [anatomy.layers[number].register_forward_hook(_given, with_kwargs=True) for number in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def only(anatomy: Anatomy, plan: Plan) -> Iterator[None]:
    """Let the teacher compute with the parts of ``plan`` alone: what its student must compute too."""
    device = next(anatomy.model.parameters()).device
    handles: list[Any] = []
    for place, number in enumerate(plan.layers):
        if plan.heads is not None:
            mask = _mask(plan.heads[place], anatomy.heads, device).repeat_interleave(anatomy.head_size)
            handles.append(anatomy.mixers("attention_out")[number].register_forward_pre_hook(_times_input(mask)))
        if plan.neurons is not None:
            mask = _mask(plan.neurons[place], anatomy.neurons, device)
            handles.append(anatomy.mixers("mlp_out")[number].register_forward_pre_hook(_times_input(mask)))
    if plan.channels is not None:
        mask = _mask(plan.channels, anatomy.channels, device)
        writers = [*anatomy.mixers("attention_out"), *anatomy.mixers("mlp_out"), anatomy.model.get_input_embeddings()]
        handles += [module.register_forward_hook(_times_output(mask)) for module in writers]
    try:
        with skipped(anatomy, sorted(set(range(anatomy.depth)) - set(plan.layers))):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _given(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    hidden = args[0] if args else kwargs["hidden_states"]
    return hidden if isinstance(output, Tensor) else (hidden, *output[1:])


def _mask(kept: Sequence[int], size: int, device: torch.device) -> Tensor:
    mask = torch.zeros(size, device=device)
    mask[list(kept)] = 1
    return mask


def _times_input(mask: Tensor) -> Any:
    return lambda module, args: (args[0] * mask.to(args[0].dtype), *args[1:])


def _times_output(mask: Tensor) -> Any:
    return lambda module, args, output: output * mask.to(output.dtype)
