"""What was kept of a teacher, in a file beside the student: `student.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE = "student.json"


@dataclass(frozen=True, kw_only=True)
class Record:
    """A made student."""

    kind: str
    """layers, depth or width."""
    init: str
    """teacher or random."""
    layers: list[int]
    """The teacher's layer that each layer of the student is (or, with new weights, stands for), counted from 0."""
    heads: int
    key_value_heads: int
    mlp: int
    """Neurons of each MLP."""
    hidden: int
    """Channels of the residual stream."""
    channels: list[int] | None
    """The teacher's channels that stayed; None: all."""
    parameters: int
    """Of the student, embeddings included, tied ones once."""
    teacher_parameters: int
    teacher_layers: int
    asked: int | None
    """Parameters that were asked for by number; None: the size was given in another way."""

    def lines(self) -> list[str]:
        """What a person should know of it."""
        share = 100 * self.parameters / self.teacher_parameters
        weights = "its teacher's weights" if self.init == "teacher" else "new weights"
        found = [
            f"student made with {weights}: {self.parameters:,} parameters, {share:.1f}% of the teacher's "
            f"{self.teacher_parameters:,}",
            f"  {len(self.layers)} of {self.teacher_layers} layers ({_ranges(self.layers)}), {self.heads} heads "
            f"({self.key_value_heads} for keys and values), {self.mlp} neurons, {self.hidden} channels",
        ]
        if self.asked is not None and abs(self.parameters - self.asked) > 0.02 * self.asked:
            found.append(f"  {self.asked:,} parameters were asked for; sizes go in steps, and this one is the nearest")
        return found

    def as_dict(self) -> dict[str, Any]:
        """Valid JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Record:
        """The inverse of `as_dict`."""
        return cls(**plain)


def write_record(directory: Path, record: Record) -> None:
    """Put the record into the student's directory; the file is whole or not there."""
    temporary = directory / f".{FILE}"
    temporary.write_text(json.dumps(record.as_dict(), indent=1) + "\n", encoding="utf-8")
    temporary.replace(directory / FILE)


def read_record(directory: Path) -> Record | None:
    """The record of a made student; None where the directory holds none."""
    try:
        return Record.from_dict(json.loads((directory / FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def _ranges(numbers: list[int]) -> str:
    """Rising numbers in short: 0–2, 5, 7–9."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    said = [[f"{part[0]}–{part[-1]}"] if len(part) > 2 else [str(number) for number in part] for part in parts]
    return ", ".join(word for words in said for word in words)
