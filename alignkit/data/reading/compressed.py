"""Bytes of a file, unpacked on the way if its name ends in .gz or .zst."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import Any

from alignkit.errors import Fault, RequestError

COMPRESSIONS = (".gz", ".zst")
RATIO, HARMLESS = 250, 256_000_000
"""How many times its size a compressed file may have unpacked, once that is more than so many bytes. Text packs to a
tenth, rows that all begin alike to a fiftieth; a bomb of zeros to a thousandth."""
WHOLE = 1_000_000_000
"""Bytes up to which a file that has to stand in memory is read."""


class Damaged(Exception):
    """Compressed data that breaks off or is none; the text is the second half of a sentence about the file."""


class TooLarge(Exception):
    """A file that would have to stand in memory and is larger than WHOLE."""


def plain_suffix(path: Path) -> str:
    """What the data are once unpacked: ``.jsonl`` for rows.jsonl and for rows.jsonl.gz, in lower case."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSIONS else suffix


def most_unpacked(size: int) -> int:
    """Bytes beyond which a packed file of so many bytes is taken for a bomb."""
    return max(HARMLESS, RATIO * size)


def is_compressed(path: Path) -> bool:
    return path.suffix.lower() in COMPRESSIONS


def open_bytes(path: Path) -> io.BufferedReader:
    """The file's bytes, unpacked, as a buffered stream. Reading raises Damaged where compressed data end too early.

    Raises RequestError when the file cannot be opened.
    """
    try:
        return io.BufferedReader(_Unpacked(path), 1 << 18) if is_compressed(path) else path.open("rb")
    except OSError as error:
        raise cannot_open(path, error) from error


def read_whole(path: Path, limit: int | None = None) -> tuple[bytes, bool]:
    """(the first ``limit`` bytes, whether more follow), or all of it. Raises Damaged, TooLarge, RequestError."""
    with open_bytes(path) as file:
        data = file.read(WHOLE + 1 if limit is None else limit + 1)
    if limit is not None:
        return data[:limit], len(data) > limit
    if len(data) > WHOLE:
        raise TooLarge
    return data, False


def cannot_open(path: Path, error: OSError) -> RequestError:
    """The error of a file that the system does not let us read."""
    reason = error.strerror or str(error)
    return RequestError(Fault(where=str(path), what=f"cannot be read: {reason}", instead="Check its permissions."))


class _Unpacked(io.RawIOBase):
    """Small reads, so that what stands before a break is handed over before the break is told."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._name = "gzip" if path.suffix.lower() == ".gz" else "zstd"
        self._path, self._packed, self._given = path, path.stat().st_size, 0
        self._source: Any = gzip.GzipFile(path) if self._name == "gzip" else _open_zstd(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), 1 << 16)
        try:
            data: bytes = self._source.read1(wanted) if self._name == "gzip" else self._source.read(wanted)
        except (EOFError, OSError, zlib.error) as error:
            if getattr(error, "errno", None):
                raise  # the disk's fault, not the data's
            cut = isinstance(error, EOFError) or "runcated" in str(error)
            what = (
                f"ends in the middle of its {self._name} data" if cut else f"is not sound {self._name} data ({error})"
            )
            raise Damaged(what) from error
        self._given += len(data)
        if self._given > most_unpacked(self._packed):
            what = f"unpacks to more than {RATIO} times its size ({self._given / 1e6:,.0f} MB so far), as a bomb does"
            instead = "Unpack it yourself, if it is what it should be, and give the plain file."
            raise RequestError(Fault(where=str(self._path), what=what, instead=instead))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed and hasattr(self, "_source"):
            self._source.close()
        super().close()


def _open_zstd(path: Path) -> Any:
    """Through Arrow, which is here with the datasets library; Python's own zstd begins with version 3.14."""
    import pyarrow as arrow

    if not arrow.Codec.is_available("zstd"):
        raise RequestError(
            Fault(where=str(path), what="this pyarrow was built without zstd", instead=f"Unpack it: zstd -d {path}")
        )
    return arrow.CompressedInputStream(arrow.OSFile(str(path), "rb"), "zstd")
