"""A source goes in, a model and its tokenizer come out, in eval mode, on the device, in a chosen number format."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from alignkit.config.sections import Model, Quantization
from alignkit.errors import AlignkitError, Fault, RequestError
from alignkit.models.adapter_files import add_saved_adapter, trained_quantization
from alignkit.models.attention import VARLEN, use_varlen
from alignkit.models.check import weight_faults
from alignkit.models.gguf_cache import converted_directory
from alignkit.models.hardware import DTYPES, NAMES, choose_attention, choose_device, choose_dtype
from alignkit.models.hub import fetched
from alignkit.models.locating import Source, locate
from alignkit.models.merging import fold
from alignkit.models.quantized import (
    bitsandbytes_config,
    is_quantized,
    keep_trainable_on_cpu,
)
from alignkit.models.quiet import quiet_library
from alignkit.models.rope import RopePlan, apply_rope
from alignkit.models.rope.carried import noted_plan
from alignkit.models.vocabulary import Vocabulary

__all__ = ["Loaded", "choose_attention", "choose_device", "choose_dtype", "load", "load_config", "load_tokenizer"]


@dataclass
class Loaded:
    """A model ready to score, generate or be trained."""

    model: Any
    tokenizer: Any
    source: Source
    dtype: torch.dtype
    attention: str
    device: torch.device
    quantized: bool
    quantization: Quantization = field(default_factory=Quantization)
    resolved: dict[str, str] = field(default_factory=dict)
    """What `auto` became, for the manifest."""
    vocabulary: Vocabulary | None = None
    """How it was changed for a template's tokens, after it was loaded; None: as the files have it."""
    rope: RopePlan | None = None
    """How its rotary positions were changed before it was built; None: as the files have them."""


def load(
    section: Model,
    quantization: Quantization | None = None,
    *,
    source: Source | None = None,
    device: torch.device | str | None = None,
    rope: RopePlan | None = None,
) -> Loaded:
    """Model and tokenizer of `section`, or of `source` when it was located before.

    An adapter is folded into its base; on a quantized base it stays beside it, frozen and active. An adapter
    that was trained on a quantized base gets that base: the one it saw, dequantized unless quantization is asked
    for again. `rope` is set on the configuration before the model is built; without it, what an adapter notes of the
    positions that it was trained with. Raises RequestError for weights that are missing, unsafe or do not fit.
    """
    source = fetched(source if source is not None else locate(section))
    quantization = quantization if quantization is not None else Quantization()
    place = torch.device(device) if device is not None else choose_device()
    dtype = choose_dtype(section, place)
    seen = trained_quantization(source)
    if seen is not None and section.dtype == "auto" and seen[1] in DTYPES:
        dtype = DTYPES[seen[1]]  # a base quantized from another format would be another base
    attention = choose_attention(section, place, dtype)
    if quantization.kind != "none" and place.type == "mps":
        raise RequestError(
            Fault(
                where="quantization.kind",
                what="bitsandbytes does not run on Apple's MPS",
                instead="Write quantization=none.",
            )
        )
    rope = rope if rope is not None else noted_plan(source)
    model = _load_model(section, quantization, source, place, dtype, attention, rope)
    keep_trainable_on_cpu(model)
    plain = model.get_base_model() if hasattr(model, "peft_config") else model
    attention = plain.config._attn_implementation
    if attention == "sdpa":
        use_varlen(plain)
        attention = VARLEN
    model.eval()
    quantized = is_quantized(model)
    return Loaded(
        model=model,
        tokenizer=load_tokenizer(section, source),
        source=source,
        dtype=dtype,
        attention=attention,
        device=place,
        quantized=quantized,
        quantization=quantization if quantized else Quantization(),
        resolved={"model.dtype": NAMES[dtype], "model.attention": attention, "device": place.type},
        rope=rope,
    )


def load_tokenizer(section: Model, source: Source | None = None) -> Any:
    """The tokenizer of a source; of an adapter without one, its base's. Raises RequestError when there is none."""
    from transformers import AutoTokenizer

    source = fetched(source if source is not None else locate(section))
    place = source.path
    if source.adapter and place is not None and not (place / "tokenizer_config.json").exists():
        assert source.parent is not None
        return load_tokenizer(section, source.parent)
    with readable(source, "the tokenizer"):
        tokenizer: Any = AutoTokenizer.from_pretrained(
            *_where(source), revision=_revision(source), trust_remote_code=section.trust_remote_code
        )
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token  # batches need one; masks never take it from its id
    return tokenizer


def load_config(section: Model, source: Source, rope: RopePlan | None = None) -> Any:
    """The transformers configuration that a model of `source` is built from, of an adapter its base's.

    rope: the positions it gets; None: those that an adapter notes, or the files'. Raises RequestError where it cannot
    be read.
    """
    from transformers import AutoConfig

    rope = rope if rope is not None else noted_plan(source)
    while source.adapter:
        assert source.parent is not None
        source = source.parent
    source = fetched(source)
    with readable(source, "the configuration"):
        config = AutoConfig.from_pretrained(
            *_where(source), revision=_revision(source), trust_remote_code=section.trust_remote_code
        )
        if rope is not None:
            apply_rope(config, rope)
    return config


def _load_model(
    section: Model,
    quantization: Quantization,
    source: Source,
    device: torch.device,
    dtype: torch.dtype,
    attention: str | None,
    rope: RopePlan | None,
) -> Any:
    if not source.adapter:
        return _load_base(section, quantization, source, device, dtype, attention, rope)
    assert source.path is not None and source.parent is not None
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
    base_quantization = quantization
    if seen is not None:
        compute = quantization.compute_dtype
        base_quantization = replace(seen, compute_dtype=seen.compute_dtype if compute == "auto" else compute)
    if faults := weight_faults(source, section):
        raise RequestError(faults)
    model = _load_model(section, base_quantization, source.parent, device, dtype, attention, rope)
    model = add_saved_adapter(model, source)
    if is_quantized(model) and quantization.kind != "none":
        return model
    return fold(model, dtype=dtype)


def _load_base(
    section: Model,
    quantization: Quantization,
    source: Source,
    device: torch.device,
    dtype: torch.dtype,
    attention: str | None,
    rope: RopePlan | None,
) -> Any:
    from transformers import AutoModelForCausalLM

    faults = weight_faults(source, section)
    if faults:
        raise RequestError(faults)
    if quantization.kind != "none" and importlib.util.find_spec("bitsandbytes") is None:
        raise RequestError(
            Fault(
                where="quantization.kind",
                what=f"{quantization.kind} weights (an adapter may have been trained on them) need bitsandbytes",
                instead="Install it (pip install bitsandbytes); it does not run on macOS.",
            )
        )
    config = bitsandbytes_config(quantization, dtype)
    changed = {"config": load_config(section, source, rope)} if rope is not None else {}
    with readable(source, "the weights"):
        model, info = AutoModelForCausalLM.from_pretrained(
            *_where(source),
            revision=_revision(source),
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=section.trust_remote_code,
            use_safetensors=None if section.allow_pickle else True,
            quantization_config=config,
            device_map={"": device} if config is not None or device.type == "cuda" else None,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are named below, which transformers' own error does not do
            **changed,
        )
    _require_all(info, source)
    return model if config is not None or device.type == "cuda" else model.to(device)


def _where(source: Source) -> tuple[str]:
    if source.kind == "hub":
        assert source.hub_name is not None
        return (source.hub_name,)
    assert source.path is not None
    return (str(converted_directory(source.path) if source.kind == "gguf" else source.path),)


def _revision(source: Source) -> str | None:
    return source.revision if source.kind == "hub" and source.revision else "main"


def _require_all(info: Any, source: Source) -> None:
    """Every tensor of the model came from the file and every tensor of the file went into the model."""
    get = info.get if isinstance(info, dict) else lambda key, default: getattr(info, key, default)
    faults = []
    for key, what in (
        ("missing_keys", "lacks tensors that the model needs"),
        ("unexpected_keys", "holds tensors that the model has no place for"),
        ("mismatched_keys", "holds tensors of another shape than config.json asks for"),
    ):
        names = sorted(str(item[0] if isinstance(item, tuple) else item) for item in get(key, ()) or ())
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            faults.append(
                Fault(
                    where="model.name",
                    what=f"{source.place} {what}: {shown}",
                    instead="The weights and config.json do not belong together; download or save the model again.",
                )
            )
    if faults:
        raise RequestError(faults)


@contextmanager
def readable(source: Source, what: str) -> Iterator[None]:
    """Turn what a library raises while it reads `source` into one sentence."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from safetensors import SafetensorError

    try:
        with quiet_library(bars=source.kind == "hub"):
            yield
    except AlignkitError:
        raise
    except (torch.cuda.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # files that somebody made wrong on purpose bring out errors of any kind
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
        if not isinstance(error, OSError | ValueError | RuntimeError | SafetensorError | HfHubHTTPError):
            first = f"{type(error).__name__}: {first}"
        instead = "Check the files, or download the model again."
        if source.kind == "hub":
            offline = isinstance(error, LocalEntryNotFoundError) or "offline" in str(error).lower()
            instead = (
                "The hub cannot be reached and the model is not in its cache; download it first or give a path."
                if offline
                else "Check the name, and that you may read it (hub login)."
            )
        raise RequestError(
            Fault(where="model.name", what=f"{what} of {source.place} could not be read: {first}", instead=instead)
        ) from error
