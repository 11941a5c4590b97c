"""An adapter directory from arrays, as PEFT reads it, without PEFT and without torch."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.models.locating import ORIGIN_FILE, Source
from alignkit.models.origin import base_record
from alignkit.models.placing import replace_directory
from alignkit.models.rope import RopePlan
from alignkit.stages.merge.recipe import TOKENIZER_FILES
from alignkit.tensors.checkpoint import ADAPTER_WEIGHTS
from alignkit.tensors.header import header_bytes


@dataclass
class Written:
    """An adapter that is to be written: tensors, and what its config says beyond them."""

    ranks: dict[str, int] = field(default_factory=dict)
    """Module to the rank of its factors; alpha is the rank, so that B·A counts once."""
    tensors: dict[str, tuple[str, tuple[int, ...], bytes | NDArray[np.float32]]] = field(default_factory=dict)
    """Key to dtype, shape and numbers."""
    modules_to_save: list[str] = field(default_factory=list)
    token_rows: dict[str, list[int]] = field(default_factory=dict)
    """Module to the ids of the tokens whose rows stand in the file."""
    bias: str = "none"
    fan_in_fan_out: bool = False
    vocabulary: dict[str, Any] | None = None
    """models.vocabulary.Vocabulary as plain values: how the base is changed for new tokens."""
    quantization: dict[str, Any] | None = None
    rope: RopePlan | None = None

    def add_factors(self, module: str, a: NDArray[np.float32], b: NDArray[np.float32], *, embedding: bool) -> None:
        """A (r, in) and B (out, r); of an embedding A (r, V) and B (D, r)."""
        ends = (".lora_embedding_A", ".lora_embedding_B") if embedding else (".lora_A.weight", ".lora_B.weight")
        self.ranks[module] = len(a)
        for end, value in zip(ends, (a, b), strict=True):
            self.add(f"base_model.model.{module}{end}", value)

    def add(self, key: str, value: NDArray[np.float32]) -> None:
        """One tensor in fp32."""
        self.tensors[key] = ("F32", value.shape, np.ascontiguousarray(value, dtype=np.float32))

    def config(self, base: Source) -> dict[str, Any]:
        """adapter_config.json."""
        rank = max(self.ranks.values(), default=1)
        other = {module: own for module, own in self.ranks.items() if own != rank}
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base.hub_name or str(base.path),
            "revision": base.revision,
            "inference_mode": True,
            "r": rank,
            "lora_alpha": rank,
            "rank_pattern": other,
            "alpha_pattern": other,
            "target_modules": sorted(self.ranks),
            "modules_to_save": self.modules_to_save or None,
            "trainable_token_indices": self.token_rows or None,
            "bias": self.bias,
            "fan_in_fan_out": self.fan_in_fan_out,
            "lora_dropout": 0.0,
            "use_rslora": False,
            "use_dora": False,
            "init_lora_weights": True,
        }


def write_adapter(adapter: Written, directory: Path, base: Source, *, beside: Iterable[Path] = ()) -> Path:
    """Write `adapter`, whose base is `base`, beside `directory` and rename, so it is whole or not there. Returns it.

    `beside`: directories; tokenizer, template and generation settings come from the first that has a tokenizer.
    """
    directory = Path(directory).absolute()
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        _write_json(temporary / "adapter_config.json", adapter.config(base))
        noted: dict[str, Any] = {
            "base": base_record(base, directory),
            "quantization": adapter.quantization or {"kind": "none"},
        }
        if adapter.vocabulary is not None:
            noted["vocabulary"] = adapter.vocabulary
        if adapter.rope is not None:
            noted["rope"] = adapter.rope.as_dict()
        _write_json(temporary / ORIGIN_FILE, noted)
        with (temporary / ADAPTER_WEIGHTS).open("wb") as file:
            file.write(header_bytes([(key, *one[:2], _size(one[2])) for key, one in adapter.tensors.items()]))
            for _, _, data in adapter.tensors.values():
                file.write(data if isinstance(data, bytes) else data.tobytes())
        for place in beside:
            if any((place / name).exists() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json")):
                for pattern in (*TOKENIZER_FILES, "generation_config.json"):
                    for found in place.glob(pattern):
                        if found.is_dir():
                            shutil.copytree(found, temporary / found.name)
                        else:
                            shutil.copy(found, temporary / found.name)
                break
        replace_directory(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return directory


def _size(data: bytes | NDArray[np.float32]) -> int:
    return len(data) if isinstance(data, bytes) else int(data.nbytes)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
