"""The reference's log-probabilities of rows: from the cache where they are known, else from the model, once."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignkit.console import log
from alignkit.console.progress import counting
from alignkit.data.branches import Branched
from alignkit.errors import RunError
from alignkit.evaluation.inference import reading
from alignkit.stages.dpo.reference.rows import batches, row_digest, scored_tokens
from alignkit.stages.dpo.reference.store import ReferenceStore, Values, prune
from alignkit.training.answer_scores import answer_scores
from alignkit.training.head import ready_to_score

SECONDS_BETWEEN_SEGMENTS = 20.0
TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 16384}

Collate = Callable[[Sequence[Any]], dict[str, Any]]


class Pass:
    """How rows go through a model as they do in training: its layout, its number format, its attention."""

    def __init__(self, collate: Collate, *, device: torch.device, autocast: str | None) -> None:
        self.collate, self.device = collate, device
        self.autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(autocast or "")

    def laid(self, collate: Collate) -> Pass:
        """The same with rows that lie in another way."""
        other = copy.copy(self)
        other.collate = collate
        return other

    @contextmanager
    def computing(self) -> Iterator[None]:
        """The autocast of training."""
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            yield

    @contextmanager
    def reading(self, model: Any) -> Iterator[None]:
        """Evaluation mode, no gradients, the autocast of training; the model comes back as it was."""
        with reading(model), self.computing():
            yield

    def batch(self, rows: Sequence[Branched]) -> dict[str, Any]:
        """A batch on the device."""
        found = self.collate(rows)
        return {name: value.to(self.device) if torch.is_tensor(value) else value for name, value in found.items()}

    def values(self, model: Any, rows: Sequence[Branched]) -> list[Values]:
        """Log-probabilities of the scored tokens of each row, all rows in one forward pass."""
        with self.reading(ready_to_score(model)):
            per_token = answer_scores(model, self.batch(rows)).per_token  # (N,)
        counts = [scored_tokens(row) for row in rows]
        return [part.numpy().astype(np.float32) for part in per_token.float().cpu().split(counts)]

    @property
    def tokens_at_once(self) -> int:
        """Tokens of one forward pass without gradients; a row that is longer goes alone."""
        return TOKENS_AT_ONCE.get(self.device.type, TOKENS_AT_ONCE["cpu"])


class References:
    """What the reference says of the rows of a run: ``cover`` finds it out, ``of`` gives it back."""

    def __init__(self, store: ReferenceStore, passing: Pass) -> None:
        self.store, self.passing = store, passing
        self.known: dict[bytes, Values] = {}
        self.computed = 0
        """Rows that went through the reference in this process; 0 where the cache had them all."""

    def cover(self, rows: Sequence[Branched], model: Callable[[], Any], *, called: str = "rows") -> str:
        """Make the values of all rows known; returns a digest of them in the order of the rows.

        Rows are read one by one and not held. ``model`` gives the reference, and is asked only if it is needed;
        ``called``: what a person calls the rows. Raises RunError where the reference gives something that is not a
        number.
        """
        digests: list[bytes] = []
        lengths = np.zeros(len(rows), np.int32)
        for number in range(len(rows)):
            row = rows[number]
            digests.append(row_digest(row))
            lengths[number] = len(row)
        self.known |= self.store.read({digest for digest in digests if digest not in self.known})
        if any(digest not in self.known for digest in digests):
            with self.store.computing():
                self.known |= self.store.read({digest for digest in digests if digest not in self.known})
                missing = {digest: number for number, digest in enumerate(digests) if digest not in self.known}
                if missing:
                    told = f"{len(missing):,} of the {called}"
                    log.say(f"the reference reads {told}, once (the results are kept for later runs)")
                    self._compute(rows, lengths, list(missing.values()), model())
        found = hashlib.sha256()
        for digest in digests:
            found.update(self.known[digest].tobytes())
        return found.hexdigest()

    def _compute(self, rows: Sequence[Branched], lengths: NDArray[np.int32], missing: list[int], model: Any) -> None:
        fresh: dict[bytes, Values] = {}
        written = time.monotonic()
        with counting("reference", len(missing)) as done:
            try:
                for places in batches(lengths[missing], self.passing.tokens_at_once):
                    chosen = [rows[missing[place]] for place in places]
                    for row, values in zip(chosen, self.passing.values(model, chosen), strict=True):
                        if not np.isfinite(values).all():
                            raise RunError(
                                f"The reference gives a log-probability that is not a number for {row.where}, so "
                                "nothing can be compared with it. Look at the model, or write model.dtype=fp32."
                            )
                        fresh[row_digest(row)] = values
                    done(len(chosen))
                    if time.monotonic() - written > SECONDS_BETWEEN_SEGMENTS:
                        self._keep(fresh)
                        fresh, written = {}, time.monotonic()
            finally:
                self._keep(fresh)
        prune(keep=self.store.directory.name)

    def _keep(self, fresh: dict[bytes, Values]) -> None:
        self.known |= fresh
        self.computed += len(fresh)
        self.store.write(fresh)

    def replace(self, rows: Sequence[Branched], values: Sequence[Values]) -> None:
        """Take other values for these rows in this run; the cache is left as it is."""
        self.known |= {row_digest(row): one for row, one in zip(rows, values, strict=True)}

    def forget(self) -> None:
        """Everything that is known, here and in the cache, is to be found out anew."""
        self.known = {}
        self.store.forget()

    def of(self, row: Branched) -> Values:
        """(n,) nats: the values of a row that ``cover`` was given."""
        return self.known[row_digest(row)]

    def tensor(self, rows: Sequence[Branched]) -> Tensor:
        """(N,) float32: the values of a batch, in the order of its ``score_labels``."""
        return torch.from_numpy(np.concatenate([self.of(row) for row in rows]))
