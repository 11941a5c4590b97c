"""A causal language model goes in, the same trunk with a head of one number comes out: what a reward model is.

The result is the sequence classifier that transformers has for the architecture, so that plain transformers (and PEFT,
where an adapter was trained) load what is saved. B rows, T tokens, D hidden size.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from alignkit.config.sections import Model, Quantization
from alignkit.errors import Fault, RequestError
from alignkit.models.adapter_files import add_saved_adapter, trained_quantization
from alignkit.models.loading import Loaded, load, load_tokenizer
from alignkit.models.locating import Source, read_origin
from alignkit.models.merging import fold
from alignkit.models.quantized import is_quantized

HEAD = "score"
"""What the head is called in transformers' sequence classifiers of causal models."""

_KEPT = ("hf_quantizer", "is_quantized", "quantization_method", "is_loaded_in_4bit", "is_loaded_in_8bit")
"""Attributes of a quantized model that tell libraries so."""


def with_score_head(loaded: Loaded, *, seed: int) -> Loaded:
    """`loaded` with a classifier in place of its language model, changed in place; the trunk is the same object.

    The head is drawn from `seed` with a deviation of 1/sqrt(D + 1) (Stiennon et al. 2020, section 3.4 and their code),
    in fp32, and computes in fp32: in bf16 a score has three digits, and answers that are alike tie.

    Raises RequestError where transformers has no such classifier for the architecture.
    """
    wrapped = loaded.model if hasattr(loaded.model, "peft_config") else None
    causal = wrapped.get_base_model() if wrapped is not None else loaded.model
    model = _classifier_of(causal, loaded.source)
    set_pad_id(model, loaded.tokenizer)
    put_head(model, seed=seed, device=loaded.device)
    model.eval()
    if wrapped is None:
        loaded.model = model
    else:  # frozen adapters beside a quantized base: they lie in the trunk, and their wrapper stays around it
        wrapped.base_model.model = model
        loaded.model = wrapped
    return loaded


def put_head(model: Any, *, seed: int, device: torch.device) -> None:
    """Give a classifier whose head is still empty one that is drawn from `seed`, in fp32."""
    head = getattr(model, HEAD)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(1, head.in_features, generator=generator) / math.sqrt(head.in_features + 1)  # (1, D)
    new = nn.Linear(head.in_features, 1, bias=head.bias is not None, device=device)
    with torch.no_grad():
        new.weight.copy_(weight)
        if new.bias is not None:
            new.bias.zero_()
    setattr(model, HEAD, new)
    score_in_fp32(model)


def _classifier_of(causal: Any, source: Source) -> Any:
    """The architecture's classifier around the trunk of `causal`; its head is still empty."""
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as KNOWN

    config = causal.config
    if type(config) not in KNOWN:
        raise _no_head(source, f"transformers has no classifier for {config.model_type} models")
    config.num_labels = 1
    with torch.device("meta"):
        model = KNOWN[type(config)](config)
    prefix = model.base_model_prefix
    if prefix != causal.base_model_prefix or type(getattr(model, prefix)) is not type(causal.base_model):
        raise _no_head(source, f"the classifier for {config.model_type} models has another trunk")
    setattr(model, prefix, causal.base_model)
    empty = {name.rpartition(".")[0] for name, one in model.named_parameters() if one.is_meta}
    if empty != {HEAD} or not isinstance(getattr(model, HEAD), nn.Linear):
        raise _no_head(source, f"its classifier has the heads {', '.join(sorted(empty)) or 'none'}, not `{HEAD}`")
    for name in _KEPT:
        if name in vars(causal):
            setattr(model, name, vars(causal)[name])
    return model


def _no_head(source: Source, why: str) -> RequestError:
    return RequestError(
        Fault(
            where="model.name",
            what=f"{source.place} can get no head for a reward: {why}",
            instead="Take a model of another architecture (Llama, Qwen, Mistral, GPT-2 and most others have one).",
        )
    )


def set_pad_id(model: Any, tokenizer: Any) -> None:
    """Tell a classifier its pad token where its files name none: the last token of a row that is another is where the
    reward is read."""
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id


def keep_trained_pad_id(model: Any, source: Source, tokenizer: Any) -> None:
    """Where an adapter was trained with a chat template of its own, rows were padded with that template's pad token,
    whatever the files of the base name."""
    assert source.path is not None
    if "vocabulary" in (read_origin(source.path) or {}):
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        inner.config.get_text_config().pad_token_id = tokenizer.pad_token_id


def score_in_fp32(model: Any) -> None:
    """Let the head compute in fp32, whatever the trunk computes in."""
    head = getattr(model, HEAD, None)
    if isinstance(head, nn.Linear):
        head.float().register_forward_pre_hook(_raise_input)
        head.register_forward_hook(_apart_from_autocast)


def _raise_input(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].float(),)


def _apart_from_autocast(module: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
    """Under autocast the product was rounded to 16 bits: it is computed once more as it should be. D products a row."""
    if output.dtype == torch.float32:
        return output
    with torch.autocast(output.device.type, enabled=False):
        found: torch.Tensor = nn.functional.linear(inputs[0].float(), module.weight, module.bias)
    return found


def load_scored_adapter(
    section: Model,
    quantization: Quantization | None = None,
    *,
    source: Source,
    device: torch.device | str | None = None,
) -> Loaded:
    """A reward model that was trained as an adapter, on the base that it saw.

    As `loading.load` has it: folded into its base, dequantized where that was quantized, unless quantization is asked
    for again. Raises RequestError for what cannot be read or does not fit.
    """
    assert source.parent is not None
    quantization = quantization if quantization is not None else Quantization()
    noted = trained_quantization(source)
    seen = noted[0] if noted is not None else None
    if quantization.kind != "none" and seen is not None and seen.kind != quantization.kind:
        raise RequestError(
            Fault(
                where="quantization.kind",
                what=f"the adapter {source.path} was trained on a {seen.kind} base, not on {quantization.kind}",
                instead=f"Write quantization={seen.kind}, or quantization=none (it is folded into those weights).",
            )
        )
    if noted is not None and section.dtype == "auto" and noted[1] in ("bf16", "fp16", "fp32"):
        section = replace(section, dtype=noted[1])  # type: ignore[arg-type]
    loaded = load(section, seen if seen is not None else quantization, source=source.parent, device=device)
    loaded.tokenizer = load_tokenizer(section, source)  # its own, which may have another template than its base's
    loaded = with_score_head(loaded, seed=0)
    loaded.model = add_saved_adapter(loaded.model, source)
    keep_trained_pad_id(loaded.model, source, loaded.tokenizer)
    if not (is_quantized(loaded.model) and quantization.kind != "none"):
        loaded.model = fold_scored(loaded.model, loaded.dtype)
        loaded.quantized, loaded.quantization = False, Quantization()
    loaded.model.eval()
    loaded.source = source
    return loaded


def fold_scored(model: Any, dtype: torch.dtype) -> Any:
    """`merging.fold` of a classifier, whose head stays in fp32."""
    wrapped = model.get_base_model() if hasattr(model, "peft_config") else model
    head = getattr(wrapped, HEAD)
    active = getattr(head, "active_adapters", None)
    exact = (head.modules_to_save[active[0]] if active else head).weight.detach().float().clone()
    folded = fold(model, dtype=dtype)
    own = getattr(folded, HEAD).float()
    with torch.no_grad():
        own.weight.copy_(exact)
    return folded
