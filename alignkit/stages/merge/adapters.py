"""`model+adapter` as one source of tensors: W + s·B·A row chunk by row chunk, never a copy of the model.

For the planner: ``open_adapted(source)`` of a source whose base lies in a directory gives what a Checkpoint gives
(``path``, ``config``, ``tensors``, ``shape``, ``dtype``, ``read``, ``raw``), so that one reads both alike;
its ``notes`` are sentences for the log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from alignkit.errors import Fault, RequestError
from alignkit.models.locating import Source
from alignkit.models.rope.applying import with_plan
from alignkit.stages.merge.adapter_reading import Adapter, LowRank, stack_of
from alignkit.stages.merge.adapter_tensors import Biased, Grown, Stored, Sum, Tensor, Update, WithRows
from alignkit.stages.merge.architecture import is_head, output_head, ties, token_embedding
from alignkit.tensors.checkpoint import Checkpoint
from alignkit.tensors.header import TensorInfo
from alignkit.tensors.jobs import Values
from alignkit.tensors.numbers import FLOATS, WIDTHS, from_float32

__all__ = ["AdaptedModel", "TensorModel", "open_adapted"]


class TensorModel(Protocol):
    """What a Checkpoint and an AdaptedModel have in common."""

    @property
    def path(self) -> Path: ...
    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def tensors(self) -> dict[str, TensorInfo]: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def dtype(self, name: str) -> str: ...
    def read(self, name: str, start: int, stop: int) -> Values: ...
    def raw(self, name: str, start: int, stop: int) -> bytes: ...


class AdaptedModel:
    """A base with adapters on it, from the lowest to the highest. Threads may share it.

    Values are fp32 sums, rounded to nothing: they equal what PEFT merges into an fp32 base. ``changed`` names the
    tensors that differ from the base's; ``config`` is the base's with the vocabulary, the tie and the rotary positions
    as they are now.
    ``rows`` of a vocabulary that the adapter made larger start as the mean of the base's rows (models/vocabulary.py).

    Raises RequestError with every module of an adapter that the base does not have or that has another shape there.
    """

    def __init__(self, base: TensorModel, adapters: Sequence[Adapter], *, where: str = "model.name") -> None:
        self.base = base
        self.path = base.path
        self.config: dict[str, Any] = dict(base.config)
        self.notes: list[str] = []
        self._made: dict[str, Tensor] = {}
        self._where = where
        self._faults: list[Fault] = []
        shapes = {name: info.shape for name, info in base.tensors.items()}
        self._embedding = token_embedding(shapes, base.config)
        self._head = output_head(shapes, self._embedding)
        self._tied = ties(base.config, self._head)
        for adapter in adapters:
            self._place(adapter)
        if self._faults:
            raise RequestError(self._faults)
        self.changed = frozenset(self._made)
        self.tensors = dict(base.tensors) | {name: self._info(name) for name in self._made}

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def dtype(self, name: str) -> str:
        """The base's dtype of the tensor: what a copy is stored as."""
        return self.tensors[name].dtype

    def read(self, name: str, start: int, stop: int) -> Values:
        """Elements ``start`` to ``stop`` of the flattened tensor as a new float32 array."""
        made = self._made.get(name)
        return self.base.read(name, start, stop) if made is None else made.read(start, stop)

    def raw(self, name: str, start: int, stop: int) -> bytes:
        """The same as stored bytes; a changed tensor is rounded to the base's dtype."""
        if name not in self._made:
            return self.base.raw(name, start, stop)
        return bytes(from_float32(self.read(name, start, stop), self.dtype(name)))

    # --- placing an adapter ---------------------------------------------------------------------------------------

    def _place(self, adapter: Adapter) -> None:
        if adapter.quantized is not None:
            self.notes.append(
                f"{adapter.path} was trained on {adapter.quantized} weights and is put on the unquantized ones here, "
                "which it fits less well; a run with save=merged folds it into the weights that it learned with"
            )
        self._grow(adapter)
        if adapter.rope is not None:
            self.config = with_plan(self.config, adapter.rope)
        grown = self._made.get(str(self._embedding))
        for name, key in adapter.whole.items():
            self._put_whole(adapter, name, key)
        for module, (ids, key) in adapter.rows.items():
            owner = self._name(adapter, module)
            if owner is not None:
                inner = self._tensor(owner)
                if max(ids, default=-1) >= inner.shape[0] or adapter.file.shape(key)[1:] != inner.shape[1:]:
                    self._fault(adapter, f"trains rows that {owner} {inner.shape} does not have")
                else:
                    self._made[owner] = WithRows(inner, ids, adapter.read(key))
        if self._tied and self._embedding and self._trains_apart(adapter):
            # The head keeps what the embedding was without the part that is the embedding's alone.
            plain = self._made.get(self._embedding)
            if adapter.is_saved(self._embedding.removesuffix(".weight")):
                plain = grown
            self._untie(plain or Stored(self.base, self._embedding))
        transposed = self._transposed(adapter)
        for module, part in adapter.low_rank.items():
            self._add(adapter, module, part, transposed)

    def _trains_apart(self, adapter: Adapter) -> bool:
        """Whether the adapter moves one of the tied pair alone."""
        assert self._embedding is not None
        module = self._embedding.removesuffix(".weight")
        if any(self._is_head_of_tied(one) for one in adapter.low_rank):
            return True
        heads = [key for name, key in adapter.whole.items() if is_head(name)]
        mine = next((key for name, key in adapter.whole.items() if _same(name, self._embedding)), None)
        if heads:
            return mine is None or not _equal(adapter, heads[0], mine)
        return any(_same(f"{one}.weight", self._embedding) for one in adapter.low_rank) or (
            mine is not None and adapter.is_saved(module)
        )

    def _untie(self, head: Tensor) -> None:
        name = self._head or "lm_head.weight"
        self._head, self._tied = name, False
        self._made.setdefault(name, head)
        self.config["tie_word_embeddings"] = False

    def _is_head_of_tied(self, module: str) -> bool:
        return self._tied and is_head(f"{module}.weight")

    def _grow(self, adapter: Adapter) -> None:
        """Room for the tokens that the adapter was trained with (models/token_files.py, models/vocabulary.py)."""
        if self._embedding is None:
            return
        before = self._tensor(self._embedding).shape[0]
        rows, mean_of = adapter.vocabulary or (0, before)
        saved = [adapter.file.shape(key)[0] for name, key in adapter.whole.items() if _same(name, self._embedding)]
        highest = [max(ids) + 1 for ids, _ in adapter.rows.values() if ids]
        rows = max([rows, before, *saved, *highest])
        if rows == before:
            return
        names = [self._embedding] + ([self._head] if self._head and not self._tied else [])
        names += [
            name for name in self.base.tensors if is_head(name.removesuffix("bias") + "weight") and "bias" in name
        ]
        for name in names:
            self._made[name] = Grown(self._tensor(name), rows, mean_of)
        text = self.config.get("text_config")
        if isinstance(text, dict) and "vocab_size" in text:
            self.config["text_config"] = {**text, "vocab_size": rows}
        else:
            self.config["vocab_size"] = rows

    def _put_whole(self, adapter: Adapter, name: str, key: str) -> None:
        if self._tied and is_head(name):
            assert self._embedding is not None
            stored = Stored(adapter.file, key)
            if stored.shape != self._tensor(self._embedding).shape:
                self._fault(adapter, f"holds {name} of shape {stored.shape}, another than the embedding's")
            elif self._trains_apart(adapter):
                self._untie(stored)
            return
        own = stored_name(name, self.base.tensors) or (name if name in self._made else None)
        if own is None:
            self._fault(adapter, f"holds {name}, which is no tensor of its base")
            return
        new = Stored(adapter.file, key)
        if new.shape != self._tensor(own).shape:
            self._fault(adapter, f"holds {name} of shape {new.shape}, and the base's is {self._tensor(own).shape}")
            return
        self._made[own] = new

    def _add(self, adapter: Adapter, module: str, part: LowRank, transposed: bool) -> None:
        name = self._name(adapter, module)
        if name is None:
            return
        inner = self._tensor(name)
        rank = part.rank
        into, out = adapter.file.shape(part.a)[1], adapter.file.shape(part.b)[0]
        turned = part.embedding or ((out, into) != inner.shape if into != out else transposed)
        if inner.shape != ((into, out) if turned else (out, into)):
            self._fault(
                adapter, f"changes {module} with factors of {out} × {rank} × {into}, and {name} is {inner.shape}"
            )
            return
        if part.magnitude is not None and part.embedding:
            self._fault(adapter, f"is a DoRA on the embedding {module}, which has no sum with the weights")
            return
        if not isinstance(inner, Sum):
            inner = Sum(inner)
        self._made[name] = inner.plus(Update(adapter, part, turned))
        if part.bias is not None:
            bias = name.removesuffix("weight") + "bias"
            if bias in self.base.tensors:
                self._made[bias] = Biased(self._tensor(bias), adapter.read(part.bias) * part.scale)
            elif adapter.read(part.bias).any():
                self._fault(adapter, f"trained a bias for {module}, which has none")

    def _transposed(self, adapter: Adapter) -> bool:
        """Whether weights are stored (in, out), as GPT-2's: told by the layers that are not square, else the config.

        PEFT's `fan_in_fan_out` says it of the layer that it looked at last, which may be the head.
        """
        votes: Counter[bool] = Counter()
        for module, part in adapter.low_rank.items():
            into, out = adapter.file.shape(part.a)[1], adapter.file.shape(part.b)[0]
            name = stored_name(f"{module}.weight", self.base.tensors)
            if name is not None and into != out and not part.embedding and not is_head(name):
                votes[self.base.tensors[name].shape == (into, out)] += 1
        return votes[True] > votes[False] if votes else bool(adapter.config.get("fan_in_fan_out"))

    def _name(self, adapter: Adapter, module: str) -> str | None:
        """The tensor with a module's weight; a fault is noted where there is none that is computed with."""
        if self._is_head_of_tied(module):
            return self._embedding  # trained rows of a tied head are those of the embedding
        name = stored_name(f"{module}.weight", self.base.tensors)
        if name is None and self._head in self._made and _same(f"{module}.weight", str(self._head)):
            name = self._head
        if name is None:
            self._fault(adapter, f"changes {module}, which the base {self.base.path} does not have")
        elif name in self.base.tensors and self.base.dtype(name) not in FLOATS:
            self._fault(adapter, f"changes {name}, which is stored as {self.base.dtype(name)}")
            name = None
        return name

    def _tensor(self, name: str) -> Tensor:
        return self._made.get(name) or Stored(self.base, name)

    def _info(self, name: str) -> TensorInfo:
        shape = self._made[name].shape
        like = self.base.tensors.get(name) or self.base.tensors[str(self._embedding)]
        info = replace(like, name=name, shape=shape)
        return replace(info, nbytes=info.count * WIDTHS[info.dtype])

    def _fault(self, adapter: Adapter, what: str) -> None:
        instead = "Give the base that it was trained on: BASE+ADAPTER."
        self._faults.append(Fault(where=self._where, what=f"the adapter {adapter.path} {what}", instead=instead))


def open_adapted(source: Source, *, where: str = "model.name") -> AdaptedModel:
    """The headers of an adapter (or of several on each other) and of the base under them, which is a directory.

    Raises RequestError with the faults of the files, of the adapters' kinds, and of what does not fit the base.
    """
    base, adapters = stack_of(source)
    assert base.path is not None, "the base is a directory on this machine"
    opened = []
    faults: list[Fault] = []
    for one in adapters:
        try:
            opened.append(Adapter.open(one, where=where))
        except RequestError as error:
            faults += error.faults
    if faults:
        raise RequestError(faults)
    return AdaptedModel(Checkpoint.open(base.path, where=where), opened, where=where)


def stored_name(name: str, names: Collection[str]) -> str | None:
    """What a tensor is called in a checkpoint, where the root module's name may be missing or be there in addition."""
    if name in names:
        return name
    found = [one for one in names if _same(one, name)]
    return found[0] if len(found) == 1 else None


def _same(one: str, other: str) -> bool:
    return one == other or one.endswith("." + other) or other.endswith("." + one)


def _equal(adapter: Adapter, one: str, other: str) -> bool:
    """Whether two tensors of an adapter's file are the same numbers, compared piece by piece."""
    file = adapter.file
    if file.shape(one) != file.shape(other) or file.dtype(one) != file.dtype(other):
        return False
    count, step = file.tensors[one].count, 1 << 20
    return all(
        file.raw(one, at, min(at + step, count)) == file.raw(other, at, min(at + step, count))
        for at in range(0, count, step)
    )
