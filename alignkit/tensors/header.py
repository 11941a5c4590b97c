"""The header of a safetensors file, read without trusting it.

The format: eight bytes with the length of the header (little endian), the header as a JSON object from names to
dtype, shape and the range of bytes in what follows, then the data. https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignkit.tensors.numbers import WIDTHS

METADATA = "__metadata__"
LONGEST = 100_000_000
"""Bytes: the longest header that safetensors itself reads."""


class BadFile(Exception):
    """What is wrong with a file, as the end of a sentence that begins with its name."""


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies."""

    name: str
    dtype: str
    """In the words of safetensors: "BF16", "F32", "I64"."""
    shape: tuple[int, ...]
    file: str
    """The name of the file, within the checkpoint's directory."""
    offset: int
    """Bytes from the beginning of the file."""
    nbytes: int

    @property
    def count(self) -> int:
        """Number of elements; 1 for a scalar."""
        return math.prod(self.shape)


def read_header(path: Path) -> tuple[list[TensorInfo], dict[str, str]]:
    """The tensors of one file in the order of their data, and its metadata. Raises BadFile."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise BadFile(f"cannot be opened ({error.strerror})") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadFile("is no regular file")
        length, text = _header_text(descriptor, status.st_size)
    except OSError as error:
        raise BadFile(f"cannot be read ({error.strerror})") from error
    finally:
        os.close(descriptor)
    entries = _parse(text)
    metadata = entries.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadFile("has metadata that is no table of texts")
    found = [_tensor(path.name, name, entry, 8 + length) for name, entry in entries.items()]
    found.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    _check_ranges(found, 8 + length, status.st_size)
    return found, metadata


def header_bytes(tensors: list[tuple[str, str, tuple[int, ...], int]]) -> bytes:
    """The header of a file with these tensors (name, dtype, shape, bytes), data in this order, ready to be written.

    It is padded with spaces, so that the data begins at a multiple of eight bytes.
    """
    entries: dict[str, Any] = {METADATA: {"format": "pt"}}  # transformers asks who wrote it
    offset = 0
    for name, dtype, shape, nbytes in tensors:
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _header_text(descriptor: int, size: int) -> tuple[int, bytes]:
    if size < 8:
        raise BadFile(f"is no safetensors file: it has {size} bytes, too few for a header")
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    if length > LONGEST:
        raise BadFile(f"is no safetensors file: its header would have {length:,} bytes")
    if 8 + length > size:
        raise BadFile(f"is cut short: its header has {length:,} bytes, the whole file {size:,}")
    text = os.pread(descriptor, length, 8)
    if len(text) != length:
        raise BadFile("was cut short while it was read")
    return length, text


def _parse(text: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise BadFile(f"names {twice!r} twice in its header")
        return table

    if not text.startswith(b"{"):
        raise BadFile("is no safetensors file: its header is no JSON object")
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise BadFile(f"has a header that is not valid JSON ({error})") from error
    return dict(entries)


def _tensor(file: str, name: str, entry: Any, begin: int) -> TensorInfo:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise BadFile(f"describes {name!r} without dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        raise BadFile(f"holds {name!r} as {dtype!r}, a dtype that is not known here")
    if not isinstance(shape, list) or not all(_natural(size) for size in shape):
        raise BadFile(f"gives {name!r} the shape {shape!r}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_natural(place) for place in offsets):
        raise BadFile(f"gives {name!r} the offsets {offsets!r}")
    nbytes = math.prod(shape) * WIDTHS[dtype]
    if offsets[1] - offsets[0] != nbytes:
        raise BadFile(f"gives {name!r} {offsets[1] - offsets[0]:,} bytes where {dtype} of shape {shape} has {nbytes:,}")
    return TensorInfo(name, dtype, tuple(shape), file, begin + offsets[0], nbytes)


def _natural(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_ranges(tensors: list[TensorInfo], begin: int, size: int) -> None:
    """The data follows the header without overlaps and without gaps, and ends with the file."""
    end, before = begin, ""
    for tensor in tensors:
        if tensor.offset < end:
            raise BadFile(f"lets the data of {tensor.name!r} overlap that of {before!r}")
        if tensor.offset > end:
            raise BadFile(f"leaves {tensor.offset - end:,} bytes before {tensor.name!r} that belong to no tensor")
        end, before = tensor.offset + tensor.nbytes, tensor.name
    if end > size:
        raise BadFile(f"is cut short: its tensors need {end:,} bytes, it has {size:,}")
    if end < size:
        raise BadFile(f"has {size - end:,} bytes after its last tensor that belong to none")
