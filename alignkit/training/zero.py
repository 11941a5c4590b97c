"""DeepSpeed's engine around a model (ZeRO, Rajbhandari et al. 2020): what can resume its checkpoints, and the model
without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from alignkit import ranks
from alignkit.errors import RunError


def require_same(checkpoint: Path, *, deepspeed: bool) -> None:
    """Its states lie in pieces, one a process, which nobody else puts together. Raises RunError."""
    pieces = len(list(checkpoint.glob("global_step*/*optim_states.pt")))
    if pieces == (ranks.world() if deepspeed else 0):
        return
    wrote = f"DeepSpeed in {pieces} processes" if pieces else "another engine"
    again = f"launch=deepspeed launch.processes={pieces}" if pieces else "launch=local, ddp or fsdp"
    raise RunError(
        f"{checkpoint} was written by {wrote}, and its optimizer states cannot be read here. Go on with {again}, or "
        "train anew with --fresh."
    )


def unwrap(engine: Any, *, keep: bool) -> None:
    """Make the engine's model an ordinary one again, in place. All processes call this together; only where ``keep``
    is set it can be used afterwards."""
    from deepspeed import zero
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # else models that are loaded from here on would be split, too
    model = engine.module
    split = [one for one in model.parameters() if hasattr(one, "ds_id")]
    whole: dict[int, nn.Parameter] = {}
    with zero.GatheredParameters(split, enabled=bool(split)):
        for one in model.parameters():
            data = one.detach().clone() if keep else torch.empty(0)
            whole[id(one)] = nn.Parameter(data, requires_grad=one.requires_grad)
    found = [(module, name, one) for module in model.modules() for name, one in module._parameters.items()]
    for module, name, one in found:
        if one is not None:
            module._parameters[name] = whole[id(one)]
    engine.destroy()
