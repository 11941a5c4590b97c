"""A file of JSON lines that grows while a stage works, and from which it goes on after it was cut off."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from alignkit.errors import RunError
from alignkit.runs.atomic import json_bytes


class Journal:
    """Lines by their `number`, each there once. Every line that was appended is on the disk."""

    def __init__(self, path: Path) -> None:
        """Open what is there; a line that a killed process left unfinished, and all after it, is cut off."""
        self.path = path
        self._places: dict[int, tuple[int, int]] = {}
        whole = 0
        if path.exists():
            with path.open("rb") as file:
                for line in file:
                    number = _number(line)
                    if number is None:
                        break
                    self._places[number] = (whole, len(line))
                    whole += len(line)
            if whole < path.stat().st_size:
                os.truncate(path, whole)
        self._end = whole

    def __contains__(self, number: object) -> bool:
        return number in self._places

    def __len__(self) -> int:
        return len(self._places)

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Add lines, all in one write. Raises RunError when the disk is full or cannot be written."""
        data = b""
        places = {}
        for line in lines:
            written = json_bytes(line)
            places[int(line["number"])] = (self._end + len(data), len(written))
            data += written
        try:
            with self.path.open("ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"{self.path} could not be written: {error.strerror or error}.") from error
        self._places |= places
        self._end += len(data)

    def read(self, numbers: Iterable[int]) -> Iterator[dict[str, Any]]:
        """The lines of these numbers, in their order."""
        with self.path.open("rb") as file:
            for number in numbers:
                start, size = self._places[number]
                file.seek(start)
                line: dict[str, Any] = json.loads(file.read(size))
                yield line


def _number(line: bytes) -> int | None:
    """The number of a whole line; None for what is none."""
    if not line.endswith(b"\n"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    number = found.get("number") if isinstance(found, dict) else None
    return number if isinstance(number, int) else None
