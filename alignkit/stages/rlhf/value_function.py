"""The value function of PPO: what reward is still to come, told from hidden states. No second model.

It stands on the policy's own trunk, or on a low-rank adapter of its own beside the policy's on the same frozen base.
While training it is a part of the model, so that optimizer, clipping and devices see it; the result is a plain policy.

Letters: N tokens, D hidden size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alignkit.config.sections import Adapter
from alignkit.evaluation.inference import bare
from alignkit.models.adapters import keep_adapter_in_fp32
from alignkit.stages.rlhf.recipe import Value

ADAPTER = "value_function"
"""PEFT's name of its adapter."""
HEAD = "value_head"
"""Where the head stands in the model."""
FILE = "value.safetensors"


class ValueHead(nn.Module):  # type: ignore[misc]
    """Hidden states (N, D) of the positions that predict tokens, in; values (N,) in fp32, out.

    It begins at 0: before anything is known of rewards, a random guess would only add noise to the advantages (hidden
    states of a language model are large, and so would be its guesses).
    """

    def __init__(self, width: int, *, detach: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1, dtype=torch.float32)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.detach = detach

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, D) -> (N,)"""
        if self.detach:
            hidden = hidden.detach()
        with torch.autocast(hidden.device.type, enabled=False):
            values: Tensor = self.linear(hidden.float()).squeeze(-1)
        return values


class ValueFunction:
    """The head, and where it stands. ``attach`` first; ``release`` leaves the model as it was before."""

    def __init__(self, model: Any, options: Value, adapter: Adapter, *, seed: int) -> None:
        self.model, self.options = model, options
        inner = bare(model)
        width = int(inner.config.get_text_config().hidden_size)
        self.head = ValueHead(width, detach=options.detach).to(inner.get_input_embeddings().weight.device)
        if options.kind == "adapter":
            self._add_adapter(adapter, seed)
        inner.add_module(HEAD, self.head)  # last: an adapter takes every linear layer it finds

    @property
    def apart(self) -> bool:
        """Whether it needs a forward pass of its own."""
        return self.options.kind == "adapter"

    def _add_adapter(self, section: Adapter, seed: int) -> None:
        """An adapter of the policy's shape, which begins by adding nothing."""
        from alignkit.models.adapter_config import lora_config

        plain = dataclasses.replace(section, kind="lora", init="default", modules_to_save=[], dropout=0.0)
        needs = {name: parameter.requires_grad for name, parameter in self.model.named_parameters()}
        active = list(self.model.base_model.active_adapters)
        devices = [self.head.linear.weight.device] if self.head.linear.weight.is_cuda else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed + 1)
            self.model.add_adapter(ADAPTER, lora_config(self.model, plain))
        self.model.base_model.set_adapter(active)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(f".{ADAPTER}." in name or needs.get(name, False))
        keep_adapter_in_fp32(self.model)

    @contextmanager
    def active(self) -> Iterator[None]:
        """The model reads as the value function does while the context lasts; backward passes belong inside."""
        if not self.apart:
            yield
            return
        base = self.model.base_model
        before = list(base.active_adapters)
        needs = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        base.set_adapter([*(name for name in before if name != "default"), ADAPTER])
        try:
            yield
        finally:
            base.set_adapter(before)
            for parameter, needed in needs:  # PEFT wakes and freezes by what is active
                parameter.requires_grad_(needed)

    def parameters(self) -> list[nn.Parameter]:
        """What learns values alone: the head, and its adapter."""
        own = [parameter for name, parameter in self.model.named_parameters() if f".{ADAPTER}." in name]
        return [*self.head.parameters(), *own]

    # --- on the disk -------------------------------------------------------------------------------------------------

    def save(self, directory: Path) -> None:
        """Write what it learned as FILE."""
        from safetensors.torch import save_file

        directory.mkdir(parents=True, exist_ok=True)
        save_file({name: value.detach().cpu().contiguous() for name, value in self._state()}, directory / FILE)

    def load(self, directory: Path) -> None:
        """What `save` wrote."""
        from safetensors.torch import load_file

        found = load_file(directory / FILE)
        with torch.no_grad():
            for name, value in self._state():
                value.copy_(found[name])

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.head.named_parameters():
            yield f"{HEAD}.{name}", parameter
        for name, parameter in self.model.named_parameters():
            if f".{ADAPTER}." in name:
                yield name, parameter

    def release(self) -> None:
        """Take it off the model."""
        if self.apart:
            needs = {name: parameter.requires_grad for name, parameter in self.model.named_parameters()}
            active = list(self.model.base_model.active_adapters)
            self.model.delete_adapter(ADAPTER)
            self.model.base_model.set_adapter(active)
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(needs[name])
        delattr(bare(self.model), HEAD)
