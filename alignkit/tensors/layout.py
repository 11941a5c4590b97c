"""Which tensor goes into which file, and where in it: decided before the first byte is written."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from alignkit.tensors.header import TensorInfo, header_bytes
from alignkit.tensors.numbers import WIDTHS


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that is to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """In the words of safetensors: "BF16", "F32", "I64"."""

    @property
    def count(self) -> int:
        """Number of elements; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.count * WIDTHS[self.dtype]


@dataclass(frozen=True)
class Shard:
    """One file: its header, the size it will have, and its tensors in the order of their data."""

    file: str
    header: bytes
    size: int
    tensors: tuple[TensorInfo, ...]


def lay_out(specs: Sequence[TensorSpec], shard_bytes: int, weights: str) -> list[Shard]:
    """Fill files of at most ``shard_bytes`` of data with the tensors in their order (a larger tensor has its own).

    One file is called ``weights`` ("model.safetensors"), several model-00001-of-00003.safetensors and so on. Within
    a file the wider dtypes come first, so that every tensor begins at a multiple of its element's width: torch
    cannot look at others. Raises ValueError for a name given twice or a dtype without whole bytes.
    """
    names = [spec.name for spec in specs]
    if len(set(names)) != len(names):
        raise ValueError(f"a tensor is to be written twice: {sorted({n for n in names if names.count(n) > 1})}")
    if strange := sorted({spec.dtype for spec in specs} - set(WIDTHS)):
        raise ValueError(f"dtypes that cannot be written: {strange}")
    groups: list[list[TensorSpec]] = [[]]
    filled = 0
    for spec in specs:
        if groups[-1] and filled + spec.nbytes > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(spec)
        filled += spec.nbytes
    stem = Path(weights).stem
    total = len(groups)
    files = [weights] if total == 1 else [f"{stem}-{i:05d}-of-{total:05d}.safetensors" for i in range(1, total + 1)]
    return [_shard(file, group) for file, group in zip(files, groups, strict=True)]


def index_bytes(shards: Iterable[Shard]) -> bytes:
    """The index of a checkpoint in several files, as transformers writes it."""
    tensors = sorted((tensor for shard in shards for tensor in shard.tensors), key=lambda tensor: tensor.name)
    metadata = {
        "total_parameters": sum(tensor.count for tensor in tensors),
        "total_size": sum(tensor.nbytes for tensor in tensors),
    }
    table = {"metadata": metadata, "weight_map": {tensor.name: tensor.file for tensor in tensors}}
    return (json.dumps(table, indent=2, ensure_ascii=False) + "\n").encode()


def _shard(file: str, group: list[TensorSpec]) -> Shard:
    ordered = sorted(group, key=lambda spec: -WIDTHS[spec.dtype])
    header = header_bytes([(spec.name, spec.dtype, spec.shape, spec.nbytes) for spec in ordered])
    offset = len(header)
    tensors = []
    for spec in ordered:
        tensors.append(TensorInfo(spec.name, spec.dtype, spec.shape, file, offset, spec.nbytes))
        offset += spec.nbytes
    return Shard(file, header, offset, tuple(tensors))
