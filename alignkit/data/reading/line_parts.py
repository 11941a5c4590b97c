"""A JSONL file cut into parts of whole lines, each with the number of its first line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from alignkit.data.reading.compressed import Damaged, open_bytes
from alignkit.data.reading.faults import AGAIN, unreadable
from alignkit.data.reading.json_lines import LONGEST_LINE, too_long
from alignkit.data.reading.units import LineBlock, LineRange, Part, Ready


def line_ranges(path: Path, name: str, block: int) -> Iterator[Part]:
    """Ranges of bytes. The file is only looked through for line ends here: whoever reads a part reads its bytes."""
    start = at = 0
    line = 1
    with open_bytes(path) as file:
        while data := file.read(block):
            cut = data.rfind(b"\n") + 1
            if cut:
                yield LineRange(str(path), start, at + cut, line, name)
                start = at + cut
                line += data.count(b"\n")
            at += len(data)
    if start < at:
        yield LineRange(str(path), start, at, line, name)


def unpacked_lines(path: Path, name: str, block: int) -> Iterator[Part]:
    """The lines of a compressed file as bytes: where in the file they stand helps nobody."""
    held, whole = bytearray(), 0  # whole: how many bytes of what is held are whole lines
    line, gone = 1, 0  # gone: bytes of a line beyond LONGEST_LINE that were let go
    damage: Damaged | None = None
    with open_bytes(path) as file:
        while True:
            try:
                data = file.read1(min(block, 1 << 20))
            except Damaged as error:
                damage = error
                break
            if not data:
                break
            if gone:
                end = data.find(b"\n")
                gone += end if end >= 0 else len(data)
                if end < 0:
                    continue
                yield Ready((too_long(name, line, gone),), 0)
                line, gone, data = line + 1, 0, data[end + 1 :]
            if (end := data.rfind(b"\n") + 1) > 0:
                whole = len(held) + end
            held += data
            if len(held) >= block and whole:
                yield LineBlock(bytes(held[:whole]), line, name)
                line += held.count(b"\n", 0, whole)
                del held[:whole]
                whole = 0
            elif len(held) > LONGEST_LINE:
                gone = len(held)
                held.clear()
    if damage is None:
        whole = len(held)
    if whole:
        yield LineBlock(bytes(held[:whole]), line, name)
        line += held.count(b"\n", 0, whole)
    if damage is not None:
        yield Ready((unreadable(f"{name} line {line}", str(damage), AGAIN, bytes(held[whole:]), rest=True),), 0)
    elif gone:
        yield Ready((too_long(name, line, gone),), 0)
