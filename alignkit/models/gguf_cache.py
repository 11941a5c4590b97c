"""A GGUF file as a plain Hugging Face directory in the user's cache.

Reading a GGUF through transformers takes seconds each time (its vocabulary is parsed in Python, three times
over) and cannot be combined with bitsandbytes, so a file is converted once. The copy is kept in the narrowest
number format that holds every dequantized weight exactly (Q4_1 needs fp32: scale times code plus minimum), and
under a name made of the file's digest and the versions that converted it, so a stale copy is never found.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from alignkit.console import log
from alignkit.errors import RunError
from alignkit.models.gguf_tokenizer import repair_pre_tokenizer
from alignkit.models.quiet import quiet_library

CONVERTER = 1
"""Raised when the conversion below changes."""
ABANDONED_SECONDS = 3600.0
"""A half-made copy of this age belongs to no process that lives."""
_STAMP = "converted.json"


def cache_root() -> Path:
    """$XDG_CACHE_HOME/alignkit, or ~/.cache/alignkit."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "alignkit"


def converted_directory(gguf: Path) -> Path:
    """The converted copy of `gguf`, made when it does not stand or is damaged. Raises RunError when it cannot be."""
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    tag = f"{CONVERTER}-{version('transformers')}-{version('gguf')}"
    directory = cache_root() / "gguf" / f"{digest[:32]}-{hashlib.sha256(tag.encode()).hexdigest()[:8]}"
    if _is_whole(directory):
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    _sweep(directory.parent)
    _require_room(gguf, directory.parent)
    log.say(f"Converting {gguf.name} once; the copy is kept in {directory.parent}.")
    temporary = Path(tempfile.mkdtemp(prefix=".converting-", dir=directory.parent))
    try:
        with quiet_library():
            _convert(gguf, temporary)
        _stamp(temporary)
        if directory.exists():  # damaged, or another process was faster: either way ours is whole
            doomed = Path(tempfile.mkdtemp(prefix=".old-", dir=directory.parent))
            directory.rename(doomed / "old")
            shutil.rmtree(doomed, ignore_errors=True)
        try:
            temporary.rename(directory)
        except OSError:
            if not _is_whole(directory):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return directory


def _sweep(folder: Path) -> None:
    """Remove what conversions that were killed left behind."""
    for leftover in (*folder.glob(".converting-*"), *folder.glob(".old-*")):
        if time.time() - leftover.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)


def _convert(gguf: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name, trust_remote_code=False)
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent),
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
            trust_remote_code=False,
        )
    except (ValueError, KeyError, NotImplementedError, OSError, ImportError) as error:
        first = next(iter(str(error).splitlines()), repr(error))
        raise RunError(f"{gguf} could not be converted: {first}") from error
    repair_pre_tokenizer(tokenizer, gguf)
    model.to(_narrowest_exact(model))
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.config._name_or_path = ""
    tokenizer.save_pretrained(target)
    model.save_pretrained(target)


def _narrowest_exact(model: torch.nn.Module) -> torch.dtype:
    """The 16-bit format that holds every weight without loss, or fp32."""
    for dtype in (torch.bfloat16, torch.float16):
        if all(torch.equal(p.data.to(dtype).float(), p.data) for p in model.parameters()):
            return dtype
    return torch.float32


def _require_room(gguf: Path, folder: Path) -> None:
    needed = 8 * gguf.stat().st_size  # 4 bits to 32
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunError(
            f"Converting {gguf.name} may need {needed / 1e9:.1f} GB in {folder}, and {free / 1e9:.1f} GB are free. "
            "Free some, or set XDG_CACHE_HOME to a larger disk."
        )


def _stamp(directory: Path) -> None:
    """Note size and digest of each file, so that a copy that was cut short or altered is recognised."""
    files = {}
    for path in sorted(directory.iterdir()):
        with path.open("rb") as file:
            files[path.name] = {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    (directory / _STAMP).write_text(json.dumps(files), encoding="utf-8")


def _is_whole(directory: Path) -> bool:
    """Whether every file is there with the size and the bits it was written with."""
    try:
        files = json.loads((directory / _STAMP).read_text(encoding="utf-8"))
        for name, noted in files.items():
            path = directory / name
            if path.stat().st_size != noted["size"]:
                return False
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != noted["sha256"]:
                    return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return bool(files)
