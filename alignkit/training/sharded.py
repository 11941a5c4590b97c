"""Weights and optimizer states that lie in shards over the processes (FSDP2), as whole tensors and back.

A checkpoint holds whole tensors in the files and the order of a single process, whoever wrote it: so a run goes on with
another number of processes, or with one. Zhao et al. 2023, PyTorch FSDP; the per-parameter sharding of fully_shard.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from alignkit.config.sections import Launch


def whole(value: Any, *, keep: bool = True) -> Any:
    """A sharded tensor as a whole one on the CPU, in every process that wants to ``keep`` it; else None. All processes
    call this together. Anything else is given back as it is."""
    if not isinstance(value, DTensor):
        return value
    full = value.full_tensor()
    return full.detach().cpu() if keep else None


def whole_weights(model: nn.Module, *, trained: bool, keep: bool) -> dict[str, Any]:
    """State dict of whole tensors; one that two modules share stands there as one tensor. ``trained``: only weights
    that a gradient moves. All processes call this together; those without ``keep`` get nothing."""
    moved = {id(p) for p in model.parameters() if p.requires_grad}
    seen: dict[int, Any] = {}
    found: dict[str, Any] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if trained and id(value) not in moved:
            continue
        if id(value) not in seen:
            seen[id(value)] = whole(value, keep=keep)
        found[name] = seen[id(value)]
    return {name: v.detach() for name, v in found.items()} if keep else {}


def whole_optimizer_state(optimizer: Any, *, keep: bool) -> dict[str, Any]:
    """The optimizer's state dict with whole tensors. All processes call this together."""
    state = optimizer.state_dict()
    tensors = {
        number: {name: whole(value, keep=keep) for name, value in one.items()} for number, one in state["state"].items()
    }
    return {**state, "state": tensors}


def load_optimizer_state(optimizer: Any, state: dict[str, Any]) -> None:
    """Put a state of whole tensors into an optimizer whose parameters may be shards."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    of = dict(zip(numbers, parameters, strict=True))
    tensors = {
        number: {name: _like(value, of[number]) for name, value in one.items()}
        for number, one in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": tensors})


def _like(value: Any, parameter: Tensor) -> Any:
    """A whole tensor of a parameter's shape, in shards where the parameter is."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    there = value.to(parameter.device)
    return distribute_tensor(there, parameter.device_mesh, parameter.placements, src_data_rank=None)


@contextmanager
def in_shards(model: nn.Module, accelerator: Any, launch: Launch, *, keep: bool) -> Iterator[None]:
    """Split a model's weights over the processes while the block lasts; ``launch.offload``: they wait in the machine's
    memory. Afterwards the model is an ordinary one again where ``keep`` is set, and not to be used elsewhere.

    accelerate is kept from wrapping the model: it knows FSDP on GPUs only, and took it for one to be copied.
    """
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

    policy = CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if launch.offload else OffloadPolicy()
    blocks = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    for module in list(model.modules()):
        if type(module).__name__ in blocks:
            fully_shard(module, offload_policy=policy)
    fully_shard(model, offload_policy=policy)
    prepare = accelerator.prepare_model
    accelerator.prepare_model = lambda one, **_: prepare(one, device_placement=False, evaluation_mode=True)
    try:
        yield
    finally:
        accelerator.prepare_model = prepare
    _unshard(model, keep=keep)


def _unshard(model: nn.Module, *, keep: bool) -> None:
    """Make a sharded model an ordinary one again, in place. All processes call this together; only where ``keep`` is
    set it can be used afterwards."""
    together: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if not isinstance(parameter, DTensor):
                continue
            if id(parameter) not in together:
                full = parameter.full_tensor().detach()
                together[id(parameter)] = nn.Parameter(full, requires_grad=parameter.requires_grad)
                if not keep:
                    together[id(parameter)].data = torch.empty(0)
            module._parameters[name] = together[id(parameter)]
    for module in _sharded(model):
        state = module._get_fsdp_state()
        for handle in (state._pre_forward_hook_handle, state._post_forward_hook_handle):
            handle.remove()
    for module in list(_sharded(model)):
        module.__class__ = type(module).__bases__[1]


def _sharded(model: nn.Module) -> Iterator[Any]:
    from torch.distributed.fsdp import FSDPModule

    return (module for module in model.modules() if isinstance(module, FSDPModule))
