"""Model files that somebody else may have made: what they may not be, or ask for, before a library reads one.

No torch: `alignkit check` says all of it.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignkit.config.links import leads_out
from alignkit.console.bounds import TooMuchError, bounded
from alignkit.errors import Fault

ELSEWHERE = "Such a model is not read; get it from a source you trust."
_SIZES = re.compile(
    r"(vocab|hidden|intermediate|embedding)_size|head_dim|n_(embd|inner|positions)|d_model|ffn_dim|d_ff"
)
_COUNTS = re.compile(r"(num_(hidden_)?|n_)layers?|num_(attention|key_value)_heads|n_heads?|num_(local_)?experts")
_UNREAD = ("megatron_config", "corda_config", "lora_ga_config", "layer_replication")
"""Of an adapter's configuration: what makes PEFT import a module that is named there, read a file, or copy layers."""


def file_faults(place: Path, where: str = "model.name") -> Iterator[Fault]:
    """Files of a directory that are links out of it, or no files at all: reading a pipe would wait for ever."""
    try:
        entries = sorted((*place.iterdir(), *place.glob("additional_chat_templates/*")))
    except OSError as error:
        yield Fault(where=where, what=f"{place} cannot be listed ({error.strerror})", instead="Check its permissions.")
        return
    for entry in entries:
        if leads_out(place, entry):
            what = f"{entry} is a link that leads out of its directory"
            yield Fault(where=where, what=what, instead="Copy the file there, or give the directory that holds it.")
        elif entry.exists() and not (stat.S_ISREG(mode := entry.stat().st_mode) or stat.S_ISDIR(mode)):
            yield Fault(where=where, what=f"{entry} is no regular file", instead=ELSEWHERE)


def header_faults(
    place: Path, weights: str, where: str = "model.name"
) -> tuple[list[Fault], list[tuple[str, tuple[int, ...]]]]:
    """What is wrong with the headers of the safetensors files of a directory, and the names and shapes in them.

    ``weights``: the file of a model in one piece, which transformers takes before an index that lies beside it.
    """
    from alignkit.tensors.header import BadFile, read_header

    faults, shapes = [], []
    one = place / weights
    for file in [one] if one.exists() else sorted(place.glob("*.safetensors")):
        try:
            shapes += [(tensor.name, tensor.shape) for tensor in read_header(file)[0]]
        except BadFile as bad:
            faults.append(Fault(where=where, what=f"{file} {bad}", instead="Download or save the model again."))
    return faults, shapes


def hub_kernel(config: Any) -> str | None:
    """A repository of kernels that a configuration names in place of an implementation (`attn_implementation:
    owner/name`): transformers fetches such a one from the hub and imports it, with no question asked."""
    if isinstance(config, list):
        return next((kernel for one in config if (kernel := hub_kernel(one)) is not None), None)
    if not isinstance(config, dict):
        return None
    for key, value in config.items():
        if "implementation" in key and isinstance(value, str) and "/" in value:
            return value
        if (kernel := hub_kernel(value)) is not None:
            return kernel
    return None


def size_faults(
    path: Path, config: dict[str, Any], shapes: list[tuple[str, tuple[int, ...]]], where: str = "model.name"
) -> Iterator[Fault]:
    """Sizes in config.json that no tensor of the model has: it would be built at that size before anybody compares."""
    if not shapes:
        return
    packed = 8 if config.get("quantization_config") else 1  # 4-bit weights lie flat, two in a byte, or in int32
    longest = packed * max(max(shape, default=1) for _, shape in shapes)
    sections = {"": config, **{f"{key}.": one for key, one in config.items() if isinstance(one, dict)}}
    for prefix, section in sections.items():
        if prefix == "quantization_config.":
            continue
        for key, value in section.items():
            limit = longest if _SIZES.fullmatch(key) else max(longest, len(shapes)) if _COUNTS.fullmatch(key) else None
            if limit is None or isinstance(value, bool) or not isinstance(value, int):
                continue
            if key.endswith("layers") or key == "n_layer":
                limit = len(shapes)
            if not 0 <= value <= limit:
                what = f"{path} says {prefix}{key} is {value}, and its tensors are no such model's"
                what += f" ({len(shapes)} tensors, none longer than {longest:,})"
                yield Fault(where=where, what=what, instead="Download the model again.")


def adapter_faults(
    path: Path, config: dict[str, Any], shapes: list[tuple[str, tuple[int, ...]]], where: str = "model.name"
) -> Iterator[Fault]:
    """What an adapter_config.json may not say: names of code and files, ranks that its tensors do not have, patterns
    that never end."""

    def fault(what: str, instead: str = "Save or download the adapter again.") -> Fault:
        return Fault(where=where, what=f"{path} {what}", instead=instead)

    for key in _UNREAD:
        if config.get(key):
            yield fault(f"sets {key}, which is not read here", "Only plain LoRA and DoRA are read.")
    longest = max((max(shape, default=1) for _, shape in shapes), default=1)
    ranks = {"r": config.get("r", 8)}
    patterns = config.get("rank_pattern") or {}
    if isinstance(patterns, dict):
        ranks |= {f"rank_pattern {pattern}": rank for pattern, rank in patterns.items()}
    for key, rank in ranks.items():
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= longest:
            yield fault(f"says {key} is {str(rank)[:80]!r}, and its longest tensor has {longest:,} rows or columns")
    modules = sorted({parent for name, _ in shapes for parent in _parents(name)})
    for key in ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern"):
        value = config.get(key)
        if value is not None and not isinstance(value, str) and not _texts(value):
            yield fault(f"has {key} that are no names")
        elif isinstance(value, str) and (problem := _pattern_problem(value, modules)):
            yield fault(f"has a pattern in {key} that {problem}")
    for pattern in patterns if isinstance(patterns, dict) else ():
        if problem := _pattern_problem(str(pattern), modules):
            yield fault(f"has a pattern in rank_pattern that {problem}")


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _parents(name: str) -> Iterator[str]:
    """`a.b.c` to a, a.b, a.b.c: modules that a pattern is tried on."""
    steps = name.split(".")
    return (".".join(steps[:end]) for end in range(1, len(steps) + 1))


def _pattern_problem(pattern: str, names: list[str]) -> str | None:
    try:
        with bounded(2.0):
            compiled = re.compile(pattern)
            for name in names:
                compiled.fullmatch(name)
                compiled.match(f"{name}.")
    except (re.error, RecursionError, OverflowError) as error:
        return f"is no regular expression ({error})"
    except TooMuchError as limit:
        return f"{limit} on the names of its own modules"
    return None
