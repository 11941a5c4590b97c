"""A reward model that was trained as an adapter, on the base that a policy holds in memory already: no second base.

The result is a classifier with modules of its own whose large weights are the policy's tensors. Each linear layer adds
the adapter to its weight while it computes, in fp32 and rounded once, as `merging.fold` does for good: its scores are
bit for bit those of the reward model loaded alone. Nothing in the policy is wrapped, switched or written to, so it may
be in the middle of training; only its base must stay as it is, and whoever scores is told where it did not.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignkit.config.sections import Model
from alignkit.models.adapter_files import add_saved_adapter, trained_quantization
from alignkit.models.attention import VARLEN, use_varlen
from alignkit.models.hardware import DTYPES, NAMES, choose_attention, choose_dtype
from alignkit.models.hub import fetched
from alignkit.models.loading import Loaded, load_config, load_tokenizer
from alignkit.models.locating import Source, read_origin
from alignkit.models.merging import LINEAR, linear_sum
from alignkit.models.quantized import dequantized_weight, describe, is_quantized_linear
from alignkit.models.score_head import fold_scored, keep_trained_pad_id, put_head, set_pad_id


class Apart(Exception):
    """Why a reward model cannot share a policy's base, for a person."""


def load_beside(section: Model, source: Source, policy: Loaded) -> Loaded:
    """The reward model at `source`, an adapter, in eval mode on the tensors of `policy`'s base.

    Args:
        section: how the reward model would be loaded alone.
        policy: a model whose base is frozen: it is trained as an adapter (attached already or later), or not at all.

    Raises:
        Apart: it has to be loaded alone: another base, another number format, a whole model.
        RequestError: the adapter cannot be read or does not fit.
    """
    source = fetched(source)
    dtype = _require_same_base(section, source, policy)
    trunk = _plain(policy.model).base_model
    model, held, versions = _classifier_on(trunk, load_config(section, source), dtype)
    tokenizer = load_tokenizer(section, source)
    set_pad_id(model, tokenizer)
    put_head(model, seed=0, device=policy.device)
    _own_embedding(model, source)
    peft = add_saved_adapter(model, source)
    keep_trained_pad_id(peft, source, tokenizer)
    _fold_while_computing(peft, held, dtype)
    model = fold_scored(peft, dtype)  # what is left: a head, embeddings, modules trained in full
    model.requires_grad_(False).eval()
    attention = choose_attention(section, policy.device, dtype)
    model.set_attn_implementation(attention or "sdpa")
    kernel = model.config._attn_implementation
    if kernel == "sdpa":
        use_varlen(model)
        kernel = VARLEN
    model.register_forward_pre_hook(_Unchanged(versions))
    return Loaded(
        model=model,
        tokenizer=tokenizer,
        source=source,
        dtype=dtype,
        attention=kernel,
        device=policy.device,
        quantized=False,
        resolved={"model.dtype": NAMES[dtype], "model.attention": kernel, "device": policy.device.type},
    )


# --- whether it can be ---------------------------------------------------------------------------------------------


def _require_same_base(section: Model, source: Source, policy: Loaded) -> torch.dtype:
    """The number format of the reward model. Raises Apart where the policy's base is not the one it was trained on."""
    if not source.adapter or source.parent is None:
        raise Apart("it is a whole model and no adapter")
    base = policy.source
    while policy.quantized and base.adapter:  # adapters stay beside a quantized base
        assert base.parent is not None
        base = base.parent
    if not _same(source.parent, base):
        raise Apart(f"it is an adapter on {source.parent.place}, and the policy's base is {base.place}")
    if policy.vocabulary is not None:
        raise Apart("the policy's vocabulary was changed for a chat template")
    noted = trained_quantization(source)
    if noted is not None and section.dtype == "auto" and noted[1] in DTYPES:
        section = replace(section, dtype=noted[1])  # type: ignore[arg-type]
    dtype = choose_dtype(section, policy.device)
    if dtype != policy.dtype:
        raise Apart(f"it computes in {NAMES[dtype]}, and the policy's weights are {NAMES[policy.dtype]}")
    own = describe(policy.model)
    kind, double = (noted[0].kind, noted[0].double) if noted is not None else ("none", False)
    if kind != own["kind"] or (kind in ("nf4", "fp4") and double != own["double"]):
        raise Apart(f"it was trained on a base of quantization {kind}, and the policy's is {own['kind']}")
    return dtype


def _same(one: Source, other: Source) -> bool:
    """Whether two sources are the same files."""
    if (one.kind, one.adapter) != (other.kind, other.adapter) or (one.path is None) != (other.path is None):
        return False
    if one.path is None or other.path is None:
        return (one.hub_name, one.revision) == (other.hub_name, other.revision)
    if one.path.resolve() != other.path.resolve():
        return False
    return one.parent is None or other.parent is None or _same(one.parent, other.parent)


# --- a classifier on another model's tensors -------------------------------------------------------------------------


def _plain(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _beneath(module: nn.Module) -> nn.Module:
    """What PEFT wrapped, the module itself where it wrapped nothing."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    while isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
        inner: Any = module
        module = inner.get_base_layer() if isinstance(module, BaseTunerLayer) else inner.original_module
    return module


def _counterpart(trunk: nn.Module, name: str) -> nn.Module:
    """The module of that name in a trunk whose modules PEFT may have wrapped. Raises Apart where it has none."""
    found = _beneath(trunk)
    for step in name.split(".") if name else ():
        inner = found._modules.get(step)
        if inner is None:
            raise Apart(f"the policy has no {name}")
        found = _beneath(inner)
    return found


def _classifier_on(
    trunk: nn.Module, config: Any, dtype: torch.dtype
) -> tuple[Any, dict[int, nn.Module], list[tuple[Tensor, int]]]:
    """The architecture's classifier whose trunk has the tensors of `trunk`, its head still empty.

    Also the quantized layers by the id of those that stand for them, and every shared tensor with its version.
    """
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as KNOWN

    config = copy.deepcopy(config)
    config.num_labels = 1
    if type(config) not in KNOWN:
        raise Apart(f"transformers has no classifier for {config.model_type} models")
    with torch.device("meta"):
        model: Any = KNOWN[type(config)](config)
    held: dict[int, nn.Module] = {}
    versions: list[tuple[Tensor, int]] = []
    if type(model.base_model) is not type(_beneath(trunk)):
        raise Apart("its trunk is of another kind than the policy's")
    for name, module in model.base_model.named_modules():
        own = _counterpart(trunk, name)
        for key, empty in module._parameters.items():
            theirs: Any = own._parameters.get(key)
            if empty is None and theirs is None:
                continue
            if empty is None or theirs is None:
                raise Apart(f"the policy's {name}.{key} is another")
            versions.append((theirs, theirs._version))
            tensor = theirs.detach()
            if key == "weight" and is_quantized_linear(own):
                held[id(module)] = own
                tensor = torch.zeros((), dtype=dtype, device=theirs.device).expand(empty.shape)  # no memory of its own
            if tensor.shape != empty.shape:
                raise Apart(f"the policy's {name}.{key} has another shape")
            module._parameters[key] = nn.Parameter(tensor, requires_grad=False)
        for key in module._buffers:
            module._buffers[key] = own._buffers[key]
        for key, value in vars(module).items():  # tables that a library keeps beside its buffers
            if isinstance(value, Tensor) and value.is_meta:
                setattr(module, key, getattr(own, key))
    return model, held, versions


def _own_embedding(model: Any, source: Source) -> None:
    """An adapter that brings tokens writes their rows into the embedding: it gets one of its own."""
    from peft import PeftConfig

    assert source.path is not None
    config: Any = PeftConfig.from_pretrained(str(source.path))
    if getattr(config, "trainable_token_indices", None) or "vocabulary" in (read_origin(source.path) or {}):
        embedding = model.get_input_embeddings()
        embedding.weight = nn.Parameter(embedding.weight.detach().clone(), requires_grad=False)


@dataclass(frozen=True)
class _Unchanged:
    """Called before each forward pass: whether the shared tensors are as they were."""

    versions: list[tuple[Tensor, int]]

    def __call__(self, module: nn.Module, arguments: Any) -> None:
        if any(tensor._version != version for tensor, version in self.versions):
            raise RuntimeError("the base that a reward model shares was changed: it must be frozen")


# --- layers that fold while they compute -----------------------------------------------------------------------------


class FoldedLinear(nn.Module):
    """A linear layer on a shared weight, with an adapter added to it for the time of a forward pass.

    Its parts are held out of sight: they are the policy's, and nobody who walks this model may change them.
    """

    def __init__(self, base: nn.Module, adapter: Any, dtype: torch.dtype) -> None:
        """``base``: the linear layer, quantized or not; ``adapter``: PEFT's LoRA layer for it, or None."""
        super().__init__()
        self._parts = (base, adapter)
        self._dtype = dtype
        # GPT-2's layers hold their weight as (in, out).
        self._turned = type(base).__name__ == "Conv1D"

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out)"""
        base: Any
        base, adapter = self._parts
        trained = None
        if adapter is None:
            weight = dequantized_weight(base)
        else:
            weight, trained = linear_sum(adapter, base)
        bias = base.bias if trained is None else trained.to(base.bias.dtype)
        weight = weight.to(self._dtype)
        if bias is not None:
            bias = bias.to(self._dtype)
        if self._turned:
            return torch.addmm(bias, x.view(-1, x.shape[-1]), weight).view(*x.shape[:-1], -1)
        return F.linear(x, weight, bias)


def _fold_while_computing(peft: Any, held: dict[int, nn.Module], dtype: torch.dtype) -> None:
    """Every linear layer with an adapter, and every quantized one (`held`), in place of PEFT's."""
    from peft.tuners.lora.layer import LoraLayer

    for name, module in list(peft.named_modules()):
        if isinstance(module, LoraLayer) and type(module).__name__ in LINEAR:
            base: Any = module.get_base_layer()
            _put(peft, name, FoldedLinear(held.pop(id(base), base), module, dtype))
    for name, module in list(peft.named_modules()):
        if id(module) in held:
            _put(peft, name, FoldedLinear(held[id(module)], None, dtype))


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
