"""A checkpoint on disk as named tensors: every header is read and checked, the weights only when asked for."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.errors import Fault, RequestError, RunError
from alignkit.tensors.header import BadFile, TensorInfo, read_header
from alignkit.tensors.index import stays_inside
from alignkit.tensors.jobs import Values
from alignkit.tensors.numbers import FLOATS, WIDTHS, to_float32

WEIGHTS = "model.safetensors"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
CONFIG = "config.json"

_AGAIN = "Download or save it again."
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class Checkpoint:
    """Tensors of a directory of safetensors files; a Source, and a Verbatim one. Threads may share it.

    The files are opened read-only, at the first reading. ``path`` is the directory, ``config`` what its config.json
    says, ``tensors`` where each tensor lies, in the order of the files and of the data in them.
    """

    def __init__(self, path: Path, config: dict[str, Any], tensors: Mapping[str, TensorInfo]) -> None:
        self.path = path
        self.config = config
        self.tensors: dict[str, TensorInfo] = dict(tensors)
        self._descriptors: dict[str, int] = {}
        self._lock = threading.Lock()
        self._scratch = threading.local()

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        where: str = "model.name",
        weights: str = WEIGHTS,
        config: str = CONFIG,
    ) -> Checkpoint:
        """Read and check all headers of the checkpoint in a directory.

        ``where`` is the key that errors name. ``weights`` is the file of a checkpoint in one piece; one in several
        has ``weights`` + ".index.json" instead. An adapter's are ADAPTER_WEIGHTS and "adapter_config.json".

        Raises RequestError with every fault: a shard that is missing, outside the directory, cut short or with a
        header that does not hold together; a name in two files; a name in the index that its file does not have;
        weights that are only there as pickles; a config that is missing or no JSON object.
        """
        place = Path(path)
        faults: list[Fault] = []
        settings = _json_object(place / config, where, faults)
        tensors: dict[str, TensorInfo] = {}
        files, promised = _files(place, weights, where, faults)
        for file in files:
            try:
                found, _ = read_header(place / file)
            except BadFile as bad:
                faults.append(Fault(where=where, what=f"{place / file} {bad}", instead=_AGAIN))
                promised = {name: shard for name, shard in promised.items() if shard != file}
                continue
            for tensor in found:
                if tensor.name in tensors:
                    other = place / tensors[tensor.name].file
                    what = f"{place / file} holds {tensor.name!r}, which is in {other} too"
                    faults.append(Fault(where=where, what=what, instead=_AGAIN))
                tensors[tensor.name] = tensor
        for name, file in promised.items():
            if file in files and (name not in tensors or tensors[name].file != file):
                what = f"{place / (weights + '.index.json')} places {name!r} in {file}, which does not hold it"
                faults.append(Fault(where=where, what=what, instead=_AGAIN))
        if faults:
            raise RequestError(faults)
        return cls(place, settings, tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one tensor."""
        return self.tensors[name].shape

    def dtype(self, name: str) -> str:
        """The stored dtype: "BF16"."""
        return self.tensors[name].dtype

    def read(self, name: str, start: int, stop: int) -> Values:
        """Elements ``start`` to ``stop`` of the flattened tensor as a new (stop - start,) float32 array.

        Raises ValueError for integers and other dtypes that are not computed with, RunError when the file fails.
        """
        info = self.tensors[name]
        if info.dtype not in FLOATS:
            raise ValueError(f"{name} is stored as {info.dtype}, which is copied and not computed with")
        if info.dtype == "F32":
            values = np.empty(stop - start, dtype=np.float32)
            self._fill(info, start, stop, values.data.cast("B"))
            return values
        buffer = self._buffer((stop - start) * WIDTHS[info.dtype])
        self._fill(info, start, stop, buffer.data)
        return to_float32(buffer.data, info.dtype)

    def raw(self, name: str, start: int, stop: int) -> bytes:
        """The stored bytes of elements ``start`` to ``stop``."""
        info = self.tensors[name]
        data = bytearray((stop - start) * WIDTHS[info.dtype])
        self._fill(info, start, stop, memoryview(data))
        return bytes(data)

    def close(self) -> None:
        """Close the files; a later read opens them again."""
        with self._lock:
            while self._descriptors:
                os.close(self._descriptors.popitem()[1])

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _buffer(self, nbytes: int) -> NDArray[np.uint8]:
        """This thread's own scratch of so many bytes, the same at each reading."""
        kept: NDArray[np.uint8] | None = getattr(self._scratch, "bytes", None)
        if kept is None or kept.size < nbytes:
            kept = self._scratch.bytes = np.empty(nbytes, dtype=np.uint8)
        return kept[:nbytes]

    def _fill(self, info: TensorInfo, start: int, stop: int, into: memoryview) -> None:
        if not 0 <= start <= stop <= info.count:
            raise IndexError(f"{info.name} has {info.count} elements: {start} to {stop} are not all there")
        offset = info.offset + start * WIDTHS[info.dtype]
        descriptor = self._descriptor(info.file)
        try:
            while into:
                got = os.preadv(descriptor, [into], offset)
                if not got:
                    raise RunError(f"{self.path / info.file} was cut short while it was read. {_AGAIN}")
                into, offset = into[got:], offset + got
        except OSError as error:
            raise RunError(f"{self.path / info.file} could not be read: {error.strerror}.") from error

    def _descriptor(self, file: str) -> int:
        if (descriptor := self._descriptors.get(file)) is not None:
            return descriptor
        with self._lock:
            if file not in self._descriptors:
                try:
                    self._descriptors[file] = os.open(self.path / file, os.O_RDONLY | os.O_CLOEXEC)
                except OSError as error:
                    raise RunError(f"{self.path / file} could not be opened: {error.strerror}.") from error
            return self._descriptors[file]


def _json_object(path: Path, where: str, faults: list[Fault]) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        faults.append(Fault(where=where, what=f"{path} is missing"))
        return {}
    except (OSError, ValueError, RecursionError) as error:
        faults.append(Fault(where=where, what=f"{path} cannot be read as JSON ({error})", instead=_AGAIN))
        return {}
    if not isinstance(value, dict):
        faults.append(Fault(where=where, what=f"{path} holds no JSON object", instead=_AGAIN))
        return {}
    return value


def _files(place: Path, weights: str, where: str, faults: list[Fault]) -> tuple[list[str], dict[str, str]]:
    """Names of the files with weights, and what the index promises: name of a tensor to its file.

    As in transformers, a file in one piece comes before an index that lies beside it.
    """
    if (place / weights).exists():
        return [weights], {}
    index = place / f"{weights}.index.json"
    if not index.exists():
        faults.append(_no_weights(place, weights, where))
        return [], {}
    before = len(faults)
    table = _json_object(index, where, faults).get("weight_map")
    if len(faults) > before:
        return [], {}
    if not isinstance(table, dict) or not table or not all(isinstance(file, str) for file in table.values()):
        faults.append(Fault(where=where, what=f"{index} has no weight_map from names to files", instead=_AGAIN))
        return [], {}
    files = []
    for file in sorted(set(table.values())):
        if not stays_inside(file):
            what = f"{index} points to {file!r}, outside its own directory"
            faults.append(Fault(where=where, what=what, instead="Get the model from a source you trust."))
        elif not (place / file).exists():
            faults.append(Fault(where=where, what=f"{place / file} is missing", instead="Download the model again."))
        else:
            files.append(file)
    return files, table


def _no_weights(place: Path, weights: str, where: str) -> Fault:
    pickles = sorted(file.name for pattern in _PICKLES for file in place.glob(pattern))
    if pickles:
        return Fault(
            where=where,
            what=f"{place} holds its weights as {pickles[0]}, which can run code when it is opened",
            instead="Only safetensors are read; save the model again in that format.",
        )
    return Fault(where=where, what=f"{place} holds neither {weights} nor {weights}.index.json")
