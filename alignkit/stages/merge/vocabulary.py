"""Tokenizers that differ: the vocabulary of the result, and every parent's rows moved to where it wants them.

For the planner, when `merge.tokenizer` or `merge.pad_to_multiple` is given, or the numbers of rows differ:

    together = bring_together(models, directories, leading, choice=options.tokenizer, multiple=options.pad_to_multiple)
    parent.weights = together.models[place]      # as many rows as the result; shapes and configs agree from here on
    together.write(directory)                    # after the tokenizer files of `together.files` were copied there

A row of the result holds, of each parent,

1. the parent's own row of the token of that content;
2. where the parent does not have the token, the mean of the rows of the parents that do: it then has no say in it, and
   in a task vector such a row counts nothing unless two models disagree;
3. where nobody has it, and in rows of padding, the mean of all rows of its own tokens: by Jensen's inequality such rows
   take at most their share of the probability (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language
   Models"). A parent that keeps its ids keeps its padding as it is.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.errors import Fault, RequestError
from alignkit.stages.merge.adapter_tensors import BLOCK, width_of
from alignkit.stages.merge.adapters import TensorModel
from alignkit.stages.merge.architecture import is_head, output_head, token_embedding
from alignkit.stages.merge.tokens import Tokens, agree, has_tokenizer, moved_ids, rewrite, union
from alignkit.tensors.jobs import Values
from alignkit.tensors.numbers import WIDTHS, from_float32

Rows = NDArray[np.int64]
WIDTH = 64
"""A vocabulary that is a multiple of this stays one, as in models/vocabulary.py."""


def roles(model: TensorModel) -> dict[str, str]:
    """The tensors that have a row for each token: "embedding", "head", "bias" (of the head) to their names."""
    shapes = {name: info.shape for name, info in model.tensors.items()}
    embedding = token_embedding(shapes, model.config)
    if embedding is None:
        return {}
    found = {"embedding": embedding}
    head = output_head(shapes, embedding)
    if head is not None:
        found["head"] = head
    bias = [name for name in shapes if name.endswith("bias") and is_head(name[:-4] + "weight")]
    return found | ({"bias": bias[0]} if len(bias) == 1 and shapes[bias[0]] == shapes[embedding][:1] else {})


class MovedModel:
    """A parent whose rows stand where the result's vocabulary wants them; all else is as it was. Threads may share it.

    ``rows`` (R,): for each row of the result the parent's own, -1 where it has none. ``owners``: for such rows the
    parents that have the token, and where.
    """

    def __init__(self, inner: TensorModel, rows: Rows, own: Rows, settings: dict[str, Any]) -> None:
        self.inner, self.rows = inner, rows
        self.path, self.config = inner.path, settings
        self.owners: dict[int, list[tuple[MovedModel, int]]] = {}
        self._own = own  # rows of its tokens, without padding
        self.roles = roles(inner)
        self._role = {name: role for role, name in self.roles.items()}
        self._means: dict[str, Values] = {}
        self._lock = threading.Lock()
        self.tensors = dict(inner.tensors)
        for name in self._role:
            info = inner.tensors[name]
            moved = replace(info, shape=(len(rows), *info.shape[1:]))
            self.tensors[name] = replace(moved, nbytes=moved.count * WIDTHS[info.dtype])

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def dtype(self, name: str) -> str:
        return self.tensors[name].dtype

    def raw(self, name: str, start: int, stop: int) -> bytes:
        """Stored bytes; of a moved tensor they are exact where its rows are the parent's own."""
        if name not in self._role:
            return self.inner.raw(name, start, stop)
        return bytes(from_float32(self.read(name, start, stop), self.dtype(name)))

    def read(self, name: str, start: int, stop: int) -> Values:
        """Elements ``start`` to ``stop`` of the flattened tensor as a new float32 array."""
        if name not in self._role:
            return self.inner.read(name, start, stop)
        width = width_of(self.shape(name))
        first, last = start // width, -(-stop // width)
        rows = self.rows[first:last]
        values = np.empty((last - first, width), dtype=np.float32)
        for low, high in _runs(rows):
            if rows[low] >= 0:
                begin = int(rows[low])
                stretch = self.inner.read(name, begin * width, (begin + high - low) * width)
                values[low:high] = stretch.reshape(-1, width)
            else:
                for at in range(low, high):
                    values[at] = self._missing(name, first + at, width)
        return values.reshape(-1)[start - first * width : stop - first * width]

    def own_row(self, role: str, row: int, width: int) -> Values:
        """A row of this parent as it lies in its file; a head that it ties is its embedding."""
        name = self.roles.get(role, self.roles["embedding"])
        return self.inner.read(name, row * width, (row + 1) * width)

    def _missing(self, name: str, row: int, width: int) -> Values:
        owners = self.owners.get(row)
        if not owners:
            return self._mean(name, width)
        role = self._role[name]
        total = np.zeros(width)
        for owner, own in owners:
            total += owner.own_row(role, own, width)
        return (total / len(owners)).astype(np.float32)

    def _mean(self, name: str, width: int) -> Values:
        with self._lock:
            if name not in self._means:
                total = np.zeros(width)
                step = max(1, BLOCK // width)
                for low, high in _runs(self._own):
                    begin, end = int(self._own[low]), int(self._own[low]) + high - low
                    for at in range(begin, end, step):
                        part = self.inner.read(name, at * width, min(at + step, end) * width)
                        total += part.reshape(-1, width).sum(axis=0, dtype=np.float64)
                self._means[name] = (total / len(self._own)).astype(np.float32)
            return self._means[name]


@dataclass
class Together:
    """Parents of one vocabulary."""

    models: list[MovedModel]
    """In the order given."""
    rows: int
    """Of embedding and head, padding included."""
    files: Path
    """The directory whose tokenizer files the result gets."""
    notes: list[str]
    """Sentences for the log."""
    joined: Tokens | None = None
    """Set where tokens were added to that tokenizer."""

    def write(self, directory: Path) -> None:
        """Finish the tokenizer in `directory`, to which the files of ``files`` were copied."""
        if self.joined is not None:
            rewrite(directory, self.joined)


def bring_together(
    models: Sequence[TensorModel],
    directories: Sequence[Path],
    leading: int,
    *,
    choice: str | None,
    multiple: int | None = None,
) -> Together:
    """One vocabulary for all parents.

    Args:
        models: all parents, the base among them.
        directories: where each parent's tokenizer lies; one without a tokenizer counts as having the leading one's.
        leading: place of the parent that gives the tokenizer: the base, or the first model.
        choice: "base" keeps the leading tokenizer, and tokens that others have in addition are left out; "union" adds
            them behind (see tokens.union); a path takes the tokenizer there; None: they must agree.
        multiple: rows become a multiple of this. None: as many as the leading parent has; where that is too few, what
            the tokenizer needs, up to the next multiple of 64 if the leading parent's rows are one.

    Raises RequestError with every fault: no tokenizer, tokenizers that differ without a choice, a union of kinds that
    cannot be joined. Tokens for which a parent has no row (its tokenizer has more than it was given rows for) count as
    lacking.
    """
    places = [path if has_tokenizer(path) else directories[leading] for path in directories]
    files = Path(choice).expanduser() if choice not in (None, "base", "union") else places[leading]
    faults: list[Fault] = []
    if choice is None:
        faults = [
            Fault(
                where="merge.tokenizer",
                what=f"the tokenizers of {places[leading]} and {place} differ",
                instead="Write merge.tokenizer=base or union.",
            )
            for place in dict.fromkeys(places)
            if not agree(places[leading], place)
        ]
    if faults:
        raise RequestError(faults)
    read = {place: Tokens.read(place) for place in dict.fromkeys([*places, files])}
    tokens, joined = read[files], None
    if choice == "union":
        tokens = union(read[files], [read[place] for place in places if place != files])
        joined = tokens if tokens.count > read[files].count else None
    sizes = [_size(model) for model in models]
    rows = _row_count(tokens.count, sizes[leading], multiple, keep=choice in (None, "base", "union"))
    contents = tokens.by_id()
    moved = []
    for model, place, size in zip(models, places, sizes, strict=True):
        own = np.array(sorted(number for number in set(read[place].ids.values()) if number < size), dtype=np.int64)
        settings = _moved_settings(model.config, read[place], tokens, rows)
        moved.append(MovedModel(model, _row_map(read[place], contents, rows, size), own, settings))
    _set_owners(moved, tokens)
    return Together(moved, rows, files, _notes(moved, tokens, read[places[leading]], rows), joined)


def _moved_settings(config: dict[str, Any], before: Tokens, after: Tokens, rows: int) -> dict[str, Any]:
    found = moved_ids(config, before, after)
    text = found.get("text_config")
    if isinstance(text, dict):
        found["text_config"] = moved_ids(text, before, after) | {"vocab_size": rows}
    if "vocab_size" in found or not isinstance(text, dict):
        found["vocab_size"] = rows
    return found


def _size(model: TensorModel) -> int:
    found = roles(model)
    if not found:
        raise RequestError(
            Fault(
                where="merge.tokenizer",
                what=f"no tensor of {model.path} can be told to be its embedding",
                instead="Leave merge.tokenizer and merge.pad_to_multiple out.",
            )
        )
    return model.shape(found["embedding"])[0]


def _row_count(needed: int, leading: int, multiple: int | None, *, keep: bool) -> int:
    if multiple is not None:
        return -(-needed // multiple) * multiple
    if keep and needed <= leading:
        return leading
    return -(-needed // WIDTH) * WIDTH if leading % WIDTH == 0 else needed


def _row_map(own: Tokens, contents: dict[int, tuple[bool, bytes]], rows: int, size: int) -> Rows:
    """(R,) the parent's row for each row of the result; -1: none."""
    found = np.full(rows, -1, dtype=np.int64)
    same = True
    for number, content in contents.items():
        place = own.find(content)
        if place is not None and place < size:
            found[number] = place
        same = same and (place is None or place == number)
    if same:  # it keeps its ids: what lies between and behind its tokens stays where it is
        taken = set(own.ids.values())
        for number in range(min(rows, size)):
            if found[number] < 0 and number not in contents and number not in taken:
                found[number] = number
    return found


def _set_owners(models: list[MovedModel], tokens: Tokens) -> None:
    known = sorted(set(tokens.ids.values()))
    for model in models:
        for row in (row for row in known if row < len(model.rows) and model.rows[row] < 0):
            owners = [(other, int(other.rows[row])) for other in models if other.rows[row] >= 0]
            if owners:
                model.owners[row] = owners


def _notes(models: list[MovedModel], tokens: Tokens, leading: Tokens, rows: int) -> list[str]:
    known = np.array(sorted(set(tokens.ids.values())), dtype=np.int64)
    notes = [f"vocabulary: {len(known)} tokens, {rows} rows"]
    if tokens.count > leading.count:
        notes.append(
            f"{len(known) - len(set(leading.ids.values()))} tokens were added to the tokenizer of {leading.path}"
        )
    for model in models:
        lacking = int((model.rows[known] < 0).sum())
        left_out = len(np.setdiff1d(model._own, model.rows))
        if lacking or left_out:
            said = f"{lacking} tokens of the result are not in it" if lacking else ""
            said += (" and " if said and left_out else "") + (f"{left_out} of its own are left out" if left_out else "")
            notes.append(f"{model.path}: {said}")
    nobody = np.all([model.rows[known] < 0 for model in models], axis=0).sum()
    if nobody:
        notes.append(f"{nobody} tokens are in no parent: their rows are the mean of all rows, and untrained")
    return notes


def _runs(rows: Rows) -> list[tuple[int, int]]:
    """Stretches [low, high) of consecutive rows (or of missing ones), so that each is read at once."""
    if not len(rows):
        return []
    joined = (np.diff(rows) == 1) & (rows[:-1] >= 0) | (rows[:-1] < 0) & (rows[1:] < 0)
    cuts = np.flatnonzero(~joined) + 1
    return list(zip([0, *cuts.tolist()], [*cuts.tolist(), len(rows)], strict=True))
