"""A file of a cache: the positions of some rows, whole or not there at all, mapped into memory to be read.

A line of JSON (what follows, and its digest), filled up to 64 bytes, then arrays, each at a multiple of 64 bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.errors import RunError
from alignkit.runs.atomic import write_bytes
from alignkit.teachers.cache.layout import Arrays, Layout
from alignkit.teachers.cache.record import Record

FORMAT = 1
ALIGNED = 64
DIGEST_BYTES = 16
BY_ENTRY = frozenset({"ids", "codes", "draws"})
"""Arrays with a row for each entry; the others have one for each position."""


class DamagedShardError(Exception):
    """A shard that is not as it was written; the text says how."""


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.bin"


def write_shard(file: Path, layout: Layout, rows: Sequence[tuple[bytes, Record]]) -> None:
    """Write the records of rows (digest and positions each), at once. Raises RunError when the disk is full."""
    parts = [layout.encoded(record) for _, record in rows]
    arrays: Arrays = {
        "digests": np.frombuffer(b"".join(digest for digest, _ in rows), np.uint8).reshape(-1, DIGEST_BYTES),
        "position_ends": np.cumsum([len(record) for _, record in rows], dtype="<i8"),
        "entry_ends": np.cumsum([len(part["codes"]) for part in parts], dtype="<i8"),
    }
    arrays |= {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    body, places = bytearray(), {}
    for name, values in arrays.items():
        places[name] = {"at": len(body), "type": values.dtype.str, "shape": list(values.shape)}
        body += values.tobytes()
        body += bytes(-len(body) % ALIGNED)
    head = {"format": FORMAT, "bytes": len(body), "digest": _digest(body), "arrays": places}
    line = json.dumps(head).encode()
    write_bytes(file, line + b" " * (-(len(line) + 1) % ALIGNED) + b"\n" + bytes(body))


class Shard:
    """A finished shard, read-only. Opening looks at its head and its size; ``verify`` reads all of it."""

    def __init__(self, file: Path) -> None:
        """Raises DamagedShardError where it is cut short or is none."""
        self.file = file
        try:
            size = file.stat().st_size
            with file.open("rb") as opened:
                line = opened.readline(1 << 20)
            self._head: dict[str, Any] = json.loads(line) if line.endswith(b"\n") else {}
            self._body, expected = len(line), int(self._head["bytes"])
            if self._head["format"] != FORMAT:
                raise DamagedShardError(f"was written in format {self._head['format']}, and this is format {FORMAT}")
        except FileNotFoundError:
            raise DamagedShardError("is missing") from None
        except OSError as error:
            raise RunError(f"{file} could not be read: {error.strerror or error}.") from error
        except (ValueError, KeyError, TypeError):
            raise DamagedShardError("is cut short, or no part of a cache: its first line is not whole") from None
        if size != self._body + expected:
            how = "is cut short" if size < self._body + expected else "is longer than it was written"
            raise DamagedShardError(f"{how}: {size:,} of {self._body + expected:,} bytes")
        self._mapped = np.asarray(np.memmap(file, dtype=np.uint8, mode="r"))
        self.digests = self._array("digests")  # (R, 16)
        self._ends = {"position": self._array("position_ends"), "entry": self._array("entry_ends")}
        fixed = {"digests", "position_ends", "entry_ends"}
        self._arrays = {name: self._array(name) for name in self._head["arrays"] if name not in fixed}

    def verify(self) -> None:
        """Raises DamagedShardError where a byte is not as it was written."""
        if _digest(self._mapped[self._body :]) != self._head["digest"]:
            raise DamagedShardError("was altered: its digest is not the one that it was written with")

    @property
    def positions(self) -> int:
        return int(self._ends["position"][-1]) if len(self._ends["position"]) else 0

    @property
    def entries(self) -> int:
        return int(self._ends["entry"][-1]) if len(self._ends["entry"]) else 0

    def row(self, number: int) -> Arrays:
        """The arrays of a row's positions, as they lie on the disk."""
        ranges = {
            name: slice(int(ends[number - 1]) if number else 0, int(ends[number])) for name, ends in self._ends.items()
        }
        return {
            name: values[ranges["entry" if name in BY_ENTRY else "position"]] for name, values in self._arrays.items()
        }

    def _array(self, name: str) -> NDArray[Any]:
        place = self._head["arrays"][name]
        kind, shape = np.dtype(place["type"]), tuple(place["shape"])
        start = self._body + place["at"]
        size = kind.itemsize * int(np.prod(shape))
        values: NDArray[Any] = self._mapped[start : start + size].view(kind).reshape(shape)
        return values


def _digest(body: Any) -> str:
    return hashlib.blake2b(body, digest_size=16).hexdigest()
