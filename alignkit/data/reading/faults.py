"""Sentences about bytes that are no row, shared by the readers of every kind of file."""

from __future__ import annotations

from dataclasses import replace

from alignkit.data.rows import Unreadable
from alignkit.errors import Fault

AGAIN = "Copy the file again: it may be incomplete."
RAW = 2_000
"""Characters of a row that are kept of one that cannot be read."""

_MAGIC = {
    b"\x1f\x8b": "gzip data: end its name in .gz",
    b"\x28\xb5\x2f\xfd": "zstd data: end its name in .zst",
    b"PAR1": "a Parquet file: end its name in .parquet",
    b"ARROW1": "an Arrow file: end its name in .arrow",
    b"PK\x03\x04": "a zip archive or a spreadsheet: unpack it, or save the sheet as CSV",
    b"BZh": "bzip2 data: unpack it with bunzip2",
    b"\xfd7zXZ": "xz data: unpack it with unxz",
    b"\xff\xfe": "UTF-16 text: iconv -f utf-16 -t utf-8 makes it readable",
    b"\xfe\xff": "UTF-16 text: iconv -f utf-16 -t utf-8 makes it readable",
}
"""What a file is whose first bytes are these, and what to do with it."""


def unreadable(where: str, what: str, instead: str = "", raw: str | bytes = "", *, rest: bool = False) -> Unreadable:
    """A row, or the rest of a file, that cannot be read. ``raw`` is shortened to 2,000 characters."""
    if isinstance(raw, bytes):
        raw = raw[: 4 * RAW].decode("utf-8", "backslashreplace")
    return Unreadable(Fault(where=where, what=what, instead=instead), raw[:RAW], rest)


def not_utf8(where: str, error: UnicodeDecodeError, raw: bytes = b"") -> Unreadable:
    """The fault of bytes that are no UTF-8; ``error.start`` is counted from the start of the line."""
    byte = error.object[error.start]
    what = f"is not UTF-8 (byte 0x{byte:02x} at position {error.start + 1})"
    return unreadable(where, what, "Save the file as UTF-8 (iconv -f latin1 -t utf-8).", raw or error.object)


def undecodable(data: bytes, name: str, error: UnicodeDecodeError) -> Unreadable:
    """The fault of a whole file, with its line and the position in the line."""
    start = data.rfind(b"\n", 0, error.start) + 1
    own = UnicodeDecodeError(error.encoding, data[start : error.end], error.start - start, error.end - start, "")
    return replace(not_utf8(f"{name} line {data.count(10, 0, error.start) + 1}", own), rest=True)


def foreign(name: str, start: bytes) -> Unreadable | None:
    """The fault of a file whose first bytes show that its name ends in the wrong suffix; None: they do not."""
    for magic, meaning in _MAGIC.items():
        if start.startswith(magic):
            what, instead = meaning.split(": ", 1)
            said = f"is {what}, which its name does not say"
            return unreadable(name, said, f"{instead[:1].upper()}{instead[1:]}.", rest=True)
    return None


def near(text: str, at: int) -> str:
    """The neighbourhood of a fault, shortened for a sentence."""
    start = max(0, at - 30)
    piece = " ".join(text[start : at + 30].split())
    return f"`{'…' if start else ''}{piece}{'…' if text[at + 30 : at + 300].strip() else ''}`"


def nul(where: str, raw: str, at: int) -> Unreadable:
    """The fault of a NUL byte at character ``at`` of a line."""
    what = f"holds a NUL byte at column {at + 1}, so this is no text"
    return unreadable(where, what, "Leave it out, or save the file as UTF-8 if it is UTF-16.", raw)
