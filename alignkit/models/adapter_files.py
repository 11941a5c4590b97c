"""Adapter directories: what is written beside a base, and how it is put back on one.

`adapter_config.json` and `adapter_model.safetensors` are what PEFT reads anywhere. `alignkit.json` beside them says
what PEFT's one string cannot: which file or commit the base was, and how it was quantized while the adapter learned.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from alignkit.config.sections import Quantization
from alignkit.errors import Fault, RequestError
from alignkit.models.hub import cached_commit
from alignkit.models.locating import ORIGIN_FILE, Source, read_origin
from alignkit.models.origin import base_record, require_same_base
from alignkit.models.placing import replace_directory
from alignkit.models.quantized import describe
from alignkit.models.rope.plan import RopePlan
from alignkit.models.token_files import put_tokens
from alignkit.models.vocabulary import Vocabulary

WEIGHTS = "adapter_model.safetensors"
TRAINED = "default"


def save_adapter(
    model: Any,
    directory: Path,
    source: Source,
    *,
    tokenizer: Any = None,
    vocabulary: Vocabulary | None = None,
    rope: RopePlan | None = None,
) -> Path:
    """Write the trained adapter of a PeftModel so that it gives the same logits on the untouched base anywhere.

    `source` is the base it was trained on (an adapter itself, where that one stayed beside a quantized base);
    `vocabulary`: how that base was changed for new tokens, and `rope`: how its positions were stretched, which whoever
    loads the adapter does again.
    Written beside `directory` and renamed, so the directory is whole or not there. Returns it.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    directory = Path(directory).absolute()
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        config = copy.deepcopy(model.peft_config[TRAINED])
        commit = cached_commit(source) or source.revision
        state = get_peft_model_state_dict(model, adapter_name=TRAINED, save_embedding_layers=False)
        state = {key: value.detach().float().cpu().contiguous() for key, value in state.items()}
        _write_shifts_out(model, config, state)
        config.init_lora_weights = True  # how it started no longer matters, and must not run again
        config.eva_config = None
        config.inference_mode = True
        for name in ("target_modules", "modules_to_save", "exclude_modules"):
            if isinstance(found := getattr(config, name, None), set | list):
                setattr(config, name, sorted(found))  # PEFT keeps sets, whose order is another in every process
        config.base_model_name_or_path = source.hub_name or str(source.path)
        config.revision = commit
        save_file(state, temporary / WEIGHTS, metadata={"format": "pt"})
        config.save_pretrained(str(temporary))
        _write_origin(temporary, directory, replace(source, revision=commit), describe(model), vocabulary, rope)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        if (generation := getattr(model, "generation_config", None)) is not None:
            generation.save_pretrained(temporary)
        replace_directory(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return directory


def _write_shifts_out(model: Any, config: Any, state: dict[str, torch.Tensor]) -> None:
    """Layers that start inside the weights become plain LoRA of rank 2r with the same scale (see shifted.py)."""
    from peft.tuners.lora.layer import LoraLayer

    from alignkit.models.shifted import shift_of

    shifted = False
    for name, layer in model.named_modules():
        shift = shift_of(layer, TRAINED) if isinstance(layer, LoraLayer) else None
        if shift is None:
            continue
        shifted = True
        a, b = shift.both(layer, TRAINED)
        state[f"{name}.lora_A.weight"] = a.detach().float().cpu().contiguous()
        state[f"{name}.lora_B.weight"] = b.detach().float().cpu().contiguous()
    if not shifted:
        return
    growth = math.sqrt(2) if config.use_rslora else 2  # the scale is alpha/sqrt(r), or alpha/r
    config.r *= 2
    config.lora_alpha *= growth
    config.rank_pattern = {pattern: 2 * rank for pattern, rank in (config.rank_pattern or {}).items()}
    config.alpha_pattern = {pattern: growth * alpha for pattern, alpha in (config.alpha_pattern or {}).items()}


def _write_origin(
    temporary: Path,
    directory: Path,
    source: Source,
    quantization: dict[str, Any],
    vocabulary: Vocabulary | None,
    rope: RopePlan | None,
) -> None:
    noted: dict[str, Any] = {"base": base_record(source, directory), "quantization": quantization}
    if vocabulary is not None:
        noted["vocabulary"] = vocabulary.as_dict()
    if rope is not None:
        noted["rope"] = rope.as_dict()
    text = json.dumps(noted, indent=2)
    (temporary / ORIGIN_FILE).write_text(text + "\n", encoding="utf-8")


def trained_quantization(source: Source) -> tuple[Quantization, str] | None:
    """How the base of an adapter was quantized while it learned, and from which format; None when it was not."""
    if not source.adapter or source.path is None:
        return None
    noted = (read_origin(source.path) or {}).get("quantization")
    if not isinstance(noted, dict) or noted.get("kind", "none") == "none":
        return None
    keys = {key: noted[key] for key in ("kind", "double", "compute_dtype") if key in noted}
    return Quantization(**keys), str(noted.get("dtype", "auto"))


def add_saved_adapter(model: Any, source: Source) -> Any:
    """`model` with the adapter in `source.path` on it, active and frozen; further ones stand beside earlier ones.

    Raises RequestError when its base is another file than it was trained on, when it is no LoRA, or when its tensors
    do not fit the model.
    """
    from peft import LoraConfig, PeftConfig, get_peft_model, set_peft_model_state_dict

    assert source.path is not None
    require_same_base(source)
    try:
        config = PeftConfig.from_pretrained(str(source.path))
    except Exception as error:  # what a stranger wrote there brings out errors of any kind
        what = f"{source.path}/adapter_config.json cannot be read by PEFT ({type(error).__name__}: {error})"
        raise RequestError(
            Fault(where="model.name", what=what, instead="Save or download the adapter again.")
        ) from error
    if not isinstance(config, LoraConfig):
        raise RequestError(
            Fault(
                where="model.name",
                what=f"{source.path} is an adapter of kind {config.peft_type}, and only LoRA and DoRA are read",
                instead="Merge it with PEFT first, and give the merged directory.",
            )
        )
    config.inference_mode = True
    config.init_lora_weights = True
    name = "parent" if not hasattr(model, "peft_config") else f"parent{len(model.peft_config) + 1}"
    state = _read_state(source.path)
    put_tokens(model, source, config, state)
    try:
        with torch.random.fork_rng(devices=[]):
            if hasattr(model, "peft_config"):
                model.add_adapter(name, config)
            else:
                model = get_peft_model(model, config, adapter_name=name)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _unfit(source, " ".join(str(error).split())[:300]) from error
    try:
        result = set_peft_model_state_dict(model, state, adapter_name=name)
    except (RuntimeError, KeyError) as error:
        first = next((line.strip() for line in str(error).splitlines()[1:] if line.strip()), str(error))
        raise _unfit(source, first) from error
    missing = [key for key in result.missing_keys if f".{name}." in key or key.endswith(f".{name}")]
    strange = list(result.unexpected_keys)
    if missing or strange:
        what = f"it lacks {', '.join(missing[:3])}" if missing else f"it has {', '.join(strange[:3])}"
        raise _unfit(source, what)
    model.base_model.set_adapter(list(model.peft_config), inference_mode=True)
    model.requires_grad_(False)
    return model.eval()


def _unfit(source: Source, what: str) -> RequestError:
    assert source.parent is not None
    return RequestError(
        Fault(
            where="model.name",
            what=f"the adapter {source.path} does not fit its base {source.parent.place}: {what}",
            instead="Correct base_model_name_or_path in its adapter_config.json.",
        )
    )


def _read_state(directory: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = directory / WEIGHTS
    if not file.exists():
        raise RequestError(
            Fault(
                where="model.name",
                what=f"{directory} holds no {WEIGHTS}",
                instead="Only safetensors are read; save the adapter again in that format.",
            )
        )
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise RequestError(
            Fault(where="model.name", what=f"{file} could not be read ({error})", instead="Save or download it again.")
        ) from error
