"""Live teachers: models in memory, frozen, that read a student's batch and hand out what their heads need.

Letters: B rows, T tokens, N labelled positions, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignkit.config.sections import Model, Quantization
from alignkit.data.batching import pad
from alignkit.data.rows import UNTRAINED
from alignkit.errors import Fault, RequestError
from alignkit.evaluation.inference import bare, reading
from alignkit.evaluation.sampling import pad_id
from alignkit.models.attention import VARLEN, can_isolate
from alignkit.models.loading import Loaded, load
from alignkit.models.sources import Source
from alignkit.teachers.teacher import rows_of
from alignkit.training.logit_rule import LogitRule, logit_rule
from alignkit.training.targets import HeadTargets, MeanTargets

LAYOUT_KEYS = ("input_ids", "attention_mask", "position_ids", "document_lengths")
"""What of a batch says how its rows lie; the rest is the student's."""


class LiveTeacher:
    """One model. It reads in its own number format, without gradients, whatever the student is doing."""

    def __init__(self, loaded: Loaded) -> None:
        """``loaded``: a causal language model; it is frozen here for good."""
        self.model, self.tokenizer = loaded.model, loaded.tokenizer
        self.model.requires_grad_(False)
        self.model.eval()
        self.resolved = dict(loaded.resolved)
        self.rule: LogitRule = logit_rule(bare(self.model).config)
        self.isolates = loaded.attention in (VARLEN, "flash_attention_2") and can_isolate(self.model)
        """Whether rows laid end to end stay apart in it; else they are padded for it."""

    @classmethod
    def of(
        cls, section: Model, quantization: Quantization | None = None, *, source: Source | None = None
    ) -> LiveTeacher:
        """The model of a section. Raises RequestError as ``load`` does."""
        return cls(load(section, quantization, source=source))

    @property
    def device(self) -> torch.device:
        return next(p.device for p in self.model.parameters())

    @property
    def vocabulary(self) -> int:
        return int(self._head.weight.shape[0])

    @property
    def parameters(self) -> int:
        """Weights in all; a 4-bit weight counts as one."""
        found: int = bare(self.model).num_parameters()
        return found

    def targets(self, batch: Mapping[str, Any]) -> HeadTargets:
        """The hidden states at the N labelled positions (N, D), and the head."""
        return self._read(batch, states=False)[0]

    def states(self, batch: Mapping[str, Any]) -> tuple[HeadTargets, tuple[Tensor, ...]]:
        """The same, and the hidden states of the embedding and of every layer, (B, T, D) each, where the batch's
        tokens stand: for losses on hidden states."""
        return self._read(batch, states=True)

    @property
    def _head(self) -> Any:
        return bare(self.model).get_output_embeddings()

    def _read(self, batch: Mapping[str, Any], *, states: bool) -> tuple[HeadTargets, tuple[Tensor, ...]]:
        own, back = self._laid_out(batch)
        inputs = {k: v.to(self.device) if torch.is_tensor(v) else v for k, v in own.items() if k in LAYOUT_KEYS}
        with reading(self.model), _no_autocast(self.device):
            out = bare(self.model).base_model(**inputs, use_cache=False, output_hidden_states=states)
        wanted = (batch["labels"][:, 1:] != UNTRAINED).to(self.device)  # (B, T-1)
        hidden = self._returned(out.last_hidden_state, back)[:, :-1][wanted]  # (N, D)
        weight, bias = self._head.weight, getattr(self._head, "bias", None)
        found = HeadTargets(hidden, weight.detach(), None if bias is None else bias.detach(), self.rule)
        layers = tuple(self._returned(one, back) for one in out.hidden_states) if states else ()
        return found, layers

    def _laid_out(self, batch: Mapping[str, Any]) -> tuple[Mapping[str, Any], Tensor | None]:
        """The batch as this model can read it; and, where it was padded for it, (B, T') bool where tokens stand."""
        if batch.get("document_lengths") is None or self.isolates:
            return batch, None
        rows = [{"input_ids": row.ids, "labels": np.full(len(row.ids), UNTRAINED)} for row in rows_of(batch)]
        padded = pad(pad_id(self.tokenizer))(rows)
        return padded, padded["attention_mask"].bool()

    def _returned(self, states: Tensor, back: Tensor | None) -> Tensor:
        """States (B', T', D) as the batch's tokens lie."""
        return states if back is None else states[back.to(states.device)][None]


class MeanTeacher:
    """Several live teachers of one vocabulary; the target is the weighted mean of their probabilities."""

    def __init__(
        self, teachers: Sequence[LiveTeacher], weights: Sequence[float], *, where: str = "distill.teachers"
    ) -> None:
        """``weights``: above 0, in any scale; ``where``: the key that the others than the first stand under.

        Raises RequestError where an id means another text to one of them.
        """
        require_one_vocabulary([teacher.tokenizer for teacher in teachers], where)
        self.teachers = tuple(teachers)
        total = float(sum(weights))
        self.weights = tuple(weight / total for weight in weights)

    @property
    def tokenizer(self) -> Any:
        return self.teachers[0].tokenizer

    @property
    def isolates(self) -> bool:
        return all(teacher.isolates for teacher in self.teachers)

    @property
    def vocabulary(self) -> int:
        """Tokens that all of them have: heads may be padded to different widths."""
        return min(teacher.vocabulary for teacher in self.teachers)

    def targets(self, batch: Mapping[str, Any]) -> MeanTargets:
        heads = [teacher.targets(batch) for teacher in self.teachers]
        return MeanTargets(tuple(_cut(head, self.vocabulary) for head in heads), self.weights)


def require_one_vocabulary(tokenizers: Sequence[Any], where: str) -> None:
    """Every id means the same text to all of them. Raises RequestError naming the first that differs."""
    first = tokenizers[0].get_vocab()
    faults = []
    for number, tokenizer in enumerate(tokenizers[1:]):
        other = tokenizer.get_vocab()
        if other != first:
            token = min(first.items() ^ other.items(), key=lambda item: (item[1], item[0]))
            what = f"has another vocabulary than the first teacher: id {token[1]} is not {token[0]!r} to both"
            instead = "Average teachers of one vocabulary, or distil from one after the other."
            faults.append(Fault(where=f"{where}[{number}]", what=what, instead=instead))
    if faults:
        raise RequestError(faults)


def _cut(head: HeadTargets, vocabulary: int) -> HeadTargets:
    """The head's first tokens."""
    if len(head.weight) == vocabulary:
        return head
    return replace(head, weight=head.weight[:vocabulary], bias=None if head.bias is None else head.bias[:vocabulary])


def _no_autocast(device: torch.device) -> Any:
    """A student's autocast does not reach its teacher: what it says must not depend on who listens."""
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()
