"""The adapter section as PEFT's LoraConfig, with targets checked against the model that is there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from alignkit.config.sections import Adapter
from alignkit.console.bounds import PATTERN_SECONDS, TooMuchError, bounded
from alignkit.errors import Fault, RequestError

_INITS: dict[str, Any] = {"gaussian": "gaussian", "eva": "eva"}
"""What PEFT initialises itself; the others are set after it has built plain ones."""


def lora_config(model: nn.Module, section: Adapter, *, tokens: Sequence[int] = ()) -> Any:
    """PEFT's LoraConfig for `section` on `model`. Raises RequestError when a name in it matches nothing.

    `tokens`: ids whose rows of the embedding and of the head are trained too.
    """
    from peft import EvaConfig, LoraConfig, TaskType

    alpha = section.alpha if section.alpha is not None else 2 * section.rank
    extra: dict[str, Any] = {}
    if section.init == "eva":
        extra["eva_config"] = EvaConfig(rho=1.0)  # every layer keeps the rank that was asked for
    head = score_head(model)
    whole = [*_whole_modules(model, section), *([] if head is None else [head])]
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM if head is None else TaskType.SEQ_CLS,
        r=section.rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=section.dropout,
        target_modules=_targets(model, section),
        init_lora_weights=_INITS.get(section.init, True),
        use_rslora=section.rslora,
        use_dora=section.kind == "dora",
        rank_pattern=dict(section.rank_pattern),
        alpha_pattern=dict(section.alpha_pattern),
        modules_to_save=whole or None,
        trainable_token_indices=_token_rows(model, section, tokens),
        **extra,
    )


def score_head(model: Any) -> str | None:
    """The name of a classifier's head, which is trained and saved with an adapter; None for a language model."""
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    return "score" if isinstance(getattr(inner, "score", None), nn.Linear) else None


def _linear_names(model: nn.Module) -> list[str]:
    """Full names of the linear layers (GPT-2's Conv1D too), without the head."""
    from transformers.pytorch_utils import Conv1D

    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is None and score_head(model) is not None:
        inner: Any = model.get_base_model() if hasattr(model, "peft_config") else model  # type: ignore[operator]
        head = inner.score
    return [
        _plain(name)
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head and ".lora_" not in name
    ]


def _plain(name: str) -> str:
    """A module's name as it was before adapters were put around it."""
    return name.removeprefix("base_model.model.").removesuffix(".base_layer")


def _targets(model: nn.Module, section: Adapter) -> str | list[str]:
    """What PEFT gets: its own shorthand or pattern where that says it all, else the full names that are meant."""
    names = [_plain(name) for name, _ in model.named_modules() if name and ".lora_" not in name]
    names = [name for name in dict.fromkeys(names) if name != "base_model"]
    linear = _linear_names(model)
    wanted = section.targets
    if isinstance(wanted, str) and wanted != "all-linear":
        try:
            with bounded(PATTERN_SECONDS + 0.01 * len(names)):
                chosen = [name for name in names if re.fullmatch(wanted, name)]
        except re.error as error:
            raise RequestError(
                Fault(where="adapter.targets", what=f"{wanted!r} is no regular expression ({error})")
            ) from error
        except TooMuchError as limit:
            raise RequestError(
                Fault(
                    where="adapter.targets",
                    what=f"{wanted!r} {limit} on the names of the model's modules",
                    instead="Write it without repetitions in repetitions, or list the names.",
                )
            ) from None
        _require(chosen, wanted, linear)
    elif wanted == "all-linear":
        chosen = linear
    else:
        chosen = [name for name in names if any(name == w or name.endswith("." + w) for w in wanted)]
        for target in wanted:
            _require([n for n in chosen if n == target or n.endswith("." + target)], target, linear)
    if section.layers is None:
        return wanted
    inside = [name for name in chosen if _layer_index(name) in section.layers]
    count = 1 + max((index for index in map(_layer_index, linear) if index is not None), default=-1)
    unknown = [index for index in section.layers if not 0 <= index < count]
    if unknown or not inside:
        raise RequestError(
            Fault(
                where="adapter.layers",
                what=f"{unknown or section.layers} match no layer; this model has layers 0 to {count - 1}",
                instead="Name layers in that range, or null for all.",
            )
        )
    return inside


def _layer_index(name: str) -> int | None:
    """The number in `model.layers.7.self_attn.q_proj`; None for a module outside the stack of layers."""
    found = re.search(r"\.(\d+)\.", name)
    return int(found.group(1)) if found else None


def _require(chosen: list[str], wanted: str, linear: list[str]) -> None:
    if chosen:
        return
    leaves = sorted({name.rpartition(".")[2] for name in linear})
    close = difflib.get_close_matches(wanted, leaves, n=3)
    raise RequestError(
        Fault(
            where="adapter.targets",
            what=f"{wanted!r} matches no module of this model",
            instead=f"Did you mean {' or '.join(close)}?" if close else f"Its linear layers are {', '.join(leaves)}.",
        )
    )


def _whole_modules(model: nn.Module, section: Adapter) -> list[str]:
    leaves = {name.rpartition(".")[2] for name, _ in model.named_modules() if name}
    for wanted in section.modules_to_save:
        if wanted.rpartition(".")[2] not in leaves:
            close = difflib.get_close_matches(wanted, sorted(leaves), n=3)
            raise RequestError(
                Fault(
                    where="adapter.modules_to_save",
                    what=f"{wanted!r} matches no module of this model",
                    instead=f"Did you mean {' or '.join(close)}?" if close else "Try embed_tokens or lm_head.",
                )
            )
    return list(section.modules_to_save)


def _token_rows(model: Any, section: Adapter, tokens: Sequence[int]) -> Any:
    """Module name to the tokens whose rows are trained in it; None where there are none, or all of it is trained.

    An embedding or a head that the section trains anyway, in whole or by a low-rank update of its own, learns its new
    rows with the others; and what is tied to it does.
    """
    if not tokens:
        return None
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    found = {_plain(name): module for name, module in model.named_modules() if module in (inputs, outputs)}
    taken = {name for name in found if _is_trained(name, section)}
    if outputs is not None and inputs.weight is outputs.weight and taken:
        return None
    return {name: list(tokens) for name in found if name not in taken} or None


def _is_trained(name: str, section: Adapter) -> bool:
    wanted = section.targets
    if isinstance(wanted, str):
        targeted = wanted != "all-linear" and re.fullmatch(wanted, name) is not None
    else:
        targeted = any(name == w or name.endswith("." + w) for w in wanted)
    whole = any(name == w or name.endswith("." + w) for w in section.modules_to_save)
    return whole or (targeted and section.layers is None)
