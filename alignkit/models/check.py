"""Everything about a model that can be known without torch: files, formats, combinations. No network."""

from __future__ import annotations

import importlib.util
import platform
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignkit.config.sections import Adapter, Model, Quantization
from alignkit.errors import Fault, RequestError
from alignkit.models.context import context_length
from alignkit.models.gguf_header import NotGGUFError, read_values
from alignkit.models.jsonfile import read_object
from alignkit.models.locating import Source, locate
from alignkit.models.untrusted import adapter_faults, file_faults, header_faults, hub_kernel, size_faults
from alignkit.tensors.index import stays_inside

REVISION = re.compile(r"[\w./-]{1,200}")
"""What git takes for the name of a commit, and no address: an address may hold a password, and is kept with a run."""
INDEX = "model.safetensors.index.json"
PICKLES = ("pytorch_model*.bin", "model*.bin", "*.pt", "*.pth", "*.ckpt")
IN_LAYER_INITS = ("pissa", "olora", "loftq")
_ALLOW = "Write model.allow_pickle=true if you trust where it comes from, or convert it to safetensors."


def check(
    section: Model,
    quantization: Quantization | None = None,
    adapter: Adapter | None = None,
    *,
    where: str = "model",
    max_length: int | None = None,
) -> list[Fault]:
    """Every fault of the sections together; `where` is the key the model section stands under.

    `model.name` empty: only the combinations are looked at. `max_length`: the longest row that is to be fed in.
    """
    faults = list(combination_faults(section, quantization or Quantization(), adapter or Adapter()))
    if section.revision is not None and not REVISION.fullmatch(section.revision):
        faults.append(
            Fault(where="model.revision", what="is no branch, tag or commit", instead="Write one, such as main.")
        )
    if section.name or section.installed_file:
        faults += _source_faults(section, max_length)
    return [under(where, fault) for fault in faults]


def _source_faults(section: Model, max_length: int | None) -> list[Fault]:
    try:
        source = first = locate(section)
    except RequestError as error:
        return list(error.faults)
    faults: list[Fault] = []
    while True:
        try:
            faults += weight_faults(source, section)
        except RequestError as error:
            faults += error.faults
        if source.parent is None:
            break
        source = source.parent
    if faults or max_length is None:
        return faults
    longest = context_length(first)
    if longest is not None and max_length > longest:
        faults.append(
            Fault(
                where="data.max_length",
                what=f"{max_length} tokens are more than the {longest} that {first.place} takes",
                instead=f"Write data.max_length={longest} or less, or extend the context first.",
            )
        )
    return faults


def under(where: str, fault: Fault) -> Fault:
    """The fault under the key that the model section has in the recipe (`model`, `teacher`, …)."""
    if where == "model" or not fault.where.startswith("model."):
        return fault
    return replace(fault, where=f"{where}{fault.where.removeprefix('model')}")


def combination_faults(section: Model, quantization: Quantization, adapter: Adapter) -> Iterator[Fault]:
    """What cannot work whatever the files hold."""
    if quantization.kind != "none":
        if platform.system() == "Darwin":
            yield Fault(
                where="quantization.kind",
                what="bitsandbytes does not run on macOS",
                instead="Write quantization=none.",
            )
        elif importlib.util.find_spec("bitsandbytes") is None:
            yield Fault(
                where="quantization.kind",
                what=f"{quantization.kind} needs the package bitsandbytes, which is not installed",
                instead="Install it (pip install bitsandbytes), or write quantization=none.",
            )
    if section.attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        yield Fault(
            where="model.attention",
            what="flash_attention_2 needs the package flash_attn, which is not installed",
            instead="Write model.attention=auto.",
        )
    if adapter.kind == "none":
        return
    if adapter.init in ("pissa", "olora") and quantization.kind != "none":
        yield Fault(
            where="adapter.init",
            what=f"{adapter.init} quantizes what it leaves of the weights, and the adapter would then fit no base "
            "that is quantized anew",
            instead="Write adapter.init=loftq (nf4) or default, or quantization=none.",
        )
    if adapter.init == "loftq" and quantization.kind != "nf4":
        yield Fault(
            where="adapter.init",
            what=f"loftq makes up for the error of 4-bit weights, and quantization.kind is {quantization.kind}",
            instead="Write quantization=nf4, or adapter.init=default.",
        )
    if adapter.kind == "dora" and adapter.init in IN_LAYER_INITS:
        yield Fault(
            where="adapter.init",
            what=f"dora measures the norms of the weights with the adapter in them, and {adapter.init} starts the "
            "adapter inside the weights; the two do not combine exactly",
            instead="Write adapter.init=default, or adapter.kind=lora.",
        )
    if adapter.init == "orthogonal" and any(rank % 2 for rank in (adapter.rank, *adapter.rank_pattern.values())):
        yield Fault(
            where="adapter.rank",
            what="orthogonal needs an even rank",
            instead=f"Write adapter.rank={adapter.rank + adapter.rank % 2}.",
        )
    yield from _pattern_faults(adapter)


def _pattern_faults(adapter: Adapter) -> Iterator[Fault]:
    for key, patterns in (("rank_pattern", adapter.rank_pattern), ("alpha_pattern", adapter.alpha_pattern)):
        for pattern, value in patterns.items():
            if value <= 0:
                yield Fault(where=f"adapter.{key}.{pattern}", what=f"{value} is not above 0")
            if _regex_error(pattern):
                yield Fault(where=f"adapter.{key}", what=f"{pattern!r} is no regular expression")
    if isinstance(adapter.targets, str) and adapter.targets != "all-linear" and _regex_error(adapter.targets):
        yield Fault(where="adapter.targets", what=f"{adapter.targets!r} is no regular expression")
    if not adapter.targets:
        yield Fault(where="adapter.targets", what="is empty", instead="Write all-linear, or a list of module names.")


def _regex_error(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return True
    return False


def weight_faults(source: Source, section: Model) -> list[Fault]:
    """What is wrong with the files of one source, its base left aside. A hub name has no files to look at."""
    if source.kind == "hub" or source.path is None:
        return []
    if source.kind == "gguf":
        return _gguf_faults(source.path)
    return _adapter_faults(source.path) if source.adapter else _directory_faults(source.path, section)


def _gguf_faults(path: Path) -> list[Fault]:
    if re.search(r"-\d{5}-of-\d{5}\.gguf$", path.name):
        return [
            Fault(
                where="model.name",
                what=f"{path.name} is one part of a GGUF in several files, which cannot be read",
                instead="Join the parts with llama.cpp's gguf-split --merge.",
            )
        ]
    try:
        read_values(path, ("general.architecture",))
    except (NotGGUFError, OSError) as error:
        return [Fault(where="model.name", what=str(error), instead="Download the file again.")]
    return []


def _adapter_faults(path: Path) -> list[Fault]:
    if faults := list(file_faults(path)):
        return faults
    if (path / "adapter_model.safetensors").exists():
        config = read_object(path / "adapter_config.json", "model.name")
        faults, shapes = header_faults(path, "adapter_model.safetensors")
        return faults or list(adapter_faults(path / "adapter_config.json", config, shapes))
    return [
        Fault(
            where="model.name",
            what=f"the adapter {path} holds no adapter_model.safetensors",
            instead="Only safetensors are read; save the adapter again in that format.",
        )
    ]


def _directory_faults(path: Path, section: Model) -> list[Fault]:
    if faults := list(file_faults(path)):
        return faults  # nothing is read through a link
    config = read_object(path / "config.json", "model.name")
    faults = list(_code_faults(path, config, section))
    if (path / INDEX).exists():
        faults += _index_faults(path)
    elif not any(path.glob("*.safetensors")):
        pickles = sorted({file.name for pattern in PICKLES for file in path.glob(pattern)})
        if not pickles:
            faults.append(Fault(where="model.name", what=f"{path} holds no weights (no .safetensors file)"))
        elif not section.allow_pickle:
            faults.append(
                Fault(
                    where="model.name",
                    what=f"{path} holds its weights as {pickles[0]}, which can run code when it is opened",
                    instead=_ALLOW,
                )
            )
    if section.allow_pickle and (path / "pytorch_model.bin.index.json").exists():
        faults += _index_faults(path, "pytorch_model.bin.index.json")
    bad, shapes = header_faults(path, "model.safetensors")
    return [*faults, *(bad or size_faults(path / "config.json", config, shapes))]


def _index_faults(path: Path, name: str = INDEX) -> list[Fault]:
    """The files an index names lie in its directory and are there."""
    files = read_object(path / name, "model.name").get("weight_map")
    if not isinstance(files, dict):
        return [Fault(where="model.name", what=f"{path / name} has no weight_map")]
    faults = []
    for file in sorted({str(value) for value in files.values()}):
        if not stays_inside(file):
            faults.append(
                Fault(
                    where="model.name",
                    what=f"{path / name} points to {file!r}, outside its own directory",
                    instead="Such a model is not read; get it from a source you trust.",
                )
            )
        elif not (path / file).exists():
            faults.append(
                Fault(where="model.name", what=f"{path / file} is missing", instead="Download the model again.")
            )
    return faults


def _code_faults(path: Path, config: dict[str, Any], section: Model) -> Iterator[Fault]:
    kind = config.get("model_type")
    if not section.trust_remote_code and (kernel := hub_kernel(config)) is not None:
        yield Fault(
            where="model.trust_remote_code",
            what=f"{path / 'config.json'} asks for the code of {kernel}, which transformers would fetch and run",
            instead="Take it out of config.json, or write model.trust_remote_code=true if you trust it.",
        )
    if section.trust_remote_code or not isinstance(kind, str) or _is_known(kind):
        return
    if config.get("auto_map"):
        yield Fault(
            where="model.trust_remote_code",
            what=f"{path} is a {kind} model, which brings Python code of its own",
            instead="Write model.trust_remote_code=true if you trust where it comes from.",
        )
    else:
        yield Fault(
            where="model.name",
            what=f"the installed transformers does not know models of type {kind} ({path / 'config.json'})",
            instead="Upgrade transformers, or use another model.",
        )


def _is_known(model_type: str) -> bool:
    """Whether transformers has the model's code, told from its table of names without importing it."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return True
    tables = Path(spec.origin).parent / "models" / "auto"
    texts = [file for file in (tables / "auto_mappings.py", tables / "configuration_auto.py") if file.exists()]
    return not texts or any(f'"{model_type}"' in file.read_text(encoding="utf-8") for file in texts)
