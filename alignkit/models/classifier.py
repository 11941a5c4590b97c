"""A sequence classifier with one output: a reward model, from a directory, the hub, or an adapter on a causal base."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from alignkit.config.sections import Model, Quantization
from alignkit.errors import RequestError
from alignkit.models.attention import VARLEN, use_varlen
from alignkit.models.classifying import classifier_faults, no_classifier
from alignkit.models.hardware import NAMES, choose_attention, choose_device, choose_dtype
from alignkit.models.hub import fetched
from alignkit.models.jsonfile import read_object
from alignkit.models.loading import Loaded, load_tokenizer, readable
from alignkit.models.locating import Source, locate
from alignkit.models.score_head import load_scored_adapter, score_in_fp32, set_pad_id


@dataclass(frozen=True)
class Classifier:
    """A model that gives (B, 1) `logits` for (B, T) `input_ids`, in eval mode, and its own tokenizer."""

    model: Any
    tokenizer: Any
    source: Source


def load_classifier(section: Model, *, where: str = "model", device: torch.device | str | None = None) -> Classifier:
    """The model of a section. Raises RequestError for what gives no single score, or cannot be read."""
    loaded = load_scored(section, source=fetched(locate(section)), where=where, device=device)
    return Classifier(loaded.model, loaded.tokenizer, loaded.source)


def load_scored(
    section: Model,
    quantization: Quantization | None = None,
    *,
    source: Source,
    where: str = "model",
    device: torch.device | str | None = None,
) -> Loaded:
    """The reward model of a source, in eval mode, with all that is known of a loaded model.

    ``quantization``: of an adapter's base, where it is to stay quantized. Raises RequestError as `load_classifier`.
    """
    source = fetched(source)
    faults = classifier_faults(source, where)
    if faults:
        raise RequestError(faults)
    place = torch.device(device) if device is not None else choose_device()
    if source.adapter and not _on_classifier(source):
        return load_scored_adapter(section, quantization, source=source, device=place)
    dtype = choose_dtype(section, place)
    attention = choose_attention(section, place, dtype)
    base = fetched(source.parent) if source.adapter and source.parent is not None else source
    model = _load(section, base, dtype, attention, fresh_head=source.adapter, where=where)
    if source.adapter:
        model = _adapted(model, source)
    tokenizer = load_tokenizer(section, source)
    set_pad_id(model, tokenizer)
    score_in_fp32(model)
    model = model.to(place).eval()
    kernel = model.config._attn_implementation
    if kernel == "sdpa":
        use_varlen(model)
        kernel = VARLEN
    return Loaded(
        model=model,
        tokenizer=tokenizer,
        source=source,
        dtype=dtype,
        attention=kernel,
        device=place,
        quantized=False,
        resolved={"model.dtype": NAMES[dtype], "model.attention": kernel, "device": place.type},
    )


def _on_classifier(source: Source) -> bool:
    """Whether the base of an adapter is a classifier itself, and no language model."""
    base = source.parent
    if base is None or base.path is None or base.kind == "gguf" or base.adapter:
        return False
    names = read_object(base.path / "config.json", "model.name").get("architectures") or [""]
    return "ForSequenceClassification" in str(names[0])


def _load(
    section: Model, source: Source, dtype: torch.dtype, attention: str | None, *, fresh_head: bool, where: str
) -> Any:
    from transformers import AutoModelForSequenceClassification

    name: str = str(source.path)
    if source.path is None:
        assert source.hub_name is not None
        name = source.hub_name
    more = {"num_labels": 1} if fresh_head else {}
    with readable(source, "the weights"):
        model, info = AutoModelForSequenceClassification.from_pretrained(
            name,
            revision=source.revision or "main",
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=section.trust_remote_code,
            use_safetensors=None if section.allow_pickle else True,
            output_loading_info=True,
            **more,
        )
    found = info if isinstance(info, dict) else vars(info)
    missing = sorted(str(name) for name in found.get("missing_keys", ()))
    if missing and not fresh_head:
        raise RequestError(no_classifier(source, where, f"it lacks {', '.join(missing[:3])}"))
    if model.config.num_labels != 1:
        raise RequestError(no_classifier(source, where, f"it has {model.config.num_labels} outputs"))
    return model


def _adapted(model: Any, source: Source) -> Any:
    """The base with the adapter and its head folded in."""
    from peft import PeftModel

    with readable(source, "the adapter"):
        return PeftModel.from_pretrained(model, str(source.path)).merge_and_unload()
