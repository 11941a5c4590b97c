"""The key-value part of a GGUF file (v2 and v3), without numpy, torch or the gguf package.

Layout: magic, u32 version, u64 tensors, u64 pairs, then per pair a string key, a u32 type and the value;
strings are a u64 length and bytes (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
HEADER_LIMIT = 1_000_000
"""Bytes that a check may read of a file."""


class NotGGUFError(ValueError):
    """The file is no GGUF, or is cut short within its header."""


class _LimitError(Exception):
    """As much was read as was allowed."""


def read_values(path: Path, wanted: Iterable[str], *, limit: int | None = HEADER_LIMIT) -> dict[str, Any]:
    """The scalar and string values among `wanted`.

    ``"*.context_length"`` matches ``llama.context_length``. Reading stops when all are found or after `limit`
    bytes. Raises NotGGUFError.
    """
    missing = set(wanted)
    found: dict[str, Any] = {}
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise NotGGUFError(f"{path} does not begin like a GGUF file")
        version, _, pairs = struct.unpack("<IQQ", _take(file, 20))
        if version not in (2, 3):
            raise NotGGUFError(f"{path} is GGUF version {version}; 2 and 3 are known")
        try:
            for _ in range(pairs):
                key = _string(file, limit).decode("utf-8", "replace")
                kind = struct.unpack("<I", _take(file, 4))[0]
                pattern = next((w for w in missing if key == w or (w[0] == "*" and key.endswith(w[1:]))), None)
                value = _value(file, kind, limit)
                if pattern is not None:
                    found[pattern] = value
                    missing.discard(pattern)
                if not missing:
                    break
        except _LimitError:
            pass
    return found


def _take(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise NotGGUFError("the file is cut short within its header")
    return data


def _string(file: BinaryIO, limit: int | None) -> bytes:
    length = struct.unpack("<Q", _take(file, 8))[0]
    if limit is not None and file.tell() + length > limit:
        raise _LimitError
    return _take(file, length)


def _value(file: BinaryIO, kind: int, limit: int | None) -> Any:
    if kind == _STRING:
        return _string(file, limit).decode("utf-8", "replace")
    if kind == _ARRAY:
        inner, count = struct.unpack("<IQ", _take(file, 12))
        if inner in _SCALARS:
            file.seek(count * struct.calcsize(_SCALARS[inner]), 1)
            return None
        for _ in range(count):
            _value(file, inner, limit)
            if limit is not None and file.tell() > limit:
                raise _LimitError
        return None
    if kind not in _SCALARS:
        raise NotGGUFError(f"the header has a value of unknown type {kind}")
    form = _SCALARS[kind]
    return struct.unpack(form, _take(file, struct.calcsize(form)))[0]
