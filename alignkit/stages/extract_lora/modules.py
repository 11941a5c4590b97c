"""Which parameters of an architecture belong to linear layers: asked of transformers, with a model without memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from alignkit.errors import Fault, RequestError
from alignkit.stages.merge.adapters import stored_name


@dataclass
class Modules:
    """The parameters of a model by the names of a checkpoint's tensors."""

    linear: dict[str, bool] = field(default_factory=dict)
    """Tensor of a linear layer's weight to whether it is stored (in, out)."""
    places: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Tensor to the module that holds it and its name there. What is missing is stored otherwise than it is computed
    with (experts of a mixture, in transformers 5), so that no module can be saved for it."""
    leaves: dict[str, list[str]] = field(default_factory=dict)
    """Module to the tensors that it holds."""
    head: str = "lm_head"
    """Name of the module that is the output layer."""


def modules_of(config: Mapping[str, Any], tensors: Mapping[str, Any]) -> Modules:
    """The modules that a checkpoint with these tensors is loaded into. RequestError for an unknown model type."""
    import torch
    from torch import nn
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    kind = config.get("model_type")
    try:
        settings = AutoConfig.for_model(
            str(kind), **{key: value for key, value in config.items() if key != "model_type"}
        )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(settings)
    except (KeyError, ValueError) as error:
        raise RequestError(
            Fault(
                where="extract.base.name",
                what=f"the installed transformers has no causal language model of type {kind}",
                instead="Upgrade transformers, or use another model.",
            )
        ) from error
    found = Modules()
    outputs = model.get_output_embeddings()
    for module_name, module in model.named_modules():
        if module is outputs:
            found.head = module_name
        for leaf, _ in module.named_parameters(recurse=False):
            tensor = stored_name(f"{module_name}.{leaf}", tensors)
            if tensor is None:
                continue
            found.places.setdefault(tensor, (module_name, leaf))
            found.leaves.setdefault(module_name, []).append(tensor)
            if leaf == "weight" and isinstance(module, (nn.Linear, Conv1D)):
                found.linear[tensor] = isinstance(module, Conv1D)
    return found
