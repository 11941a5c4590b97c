"""Texts as tokens go in, what a classifier scores them comes out.

Where the model allows it, rows lie end to end and no place is spent on padding; else they are padded, neighbours of a
length together. Letters: B rows of a batch, T tokens, D hidden size.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alignkit.evaluation.inference import bare, reading
from alignkit.models.attention import VARLEN, can_isolate
from alignkit.models.score_head import HEAD


class TrunkView(nn.Module):
    """A classifier's trunk with its hidden states in the place of logits, for checks that compare those token by token
    (`models.attention.can_isolate`)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.config = bare(model).config

    @property
    def dtype(self) -> torch.dtype:
        found: torch.dtype = bare(self.model).dtype
        return found

    def get_input_embeddings(self) -> Any:
        return bare(self.model).get_input_embeddings()

    def forward(self, **kwargs: Any) -> Any:
        return types.SimpleNamespace(logits=bare(self.model).base_model(**kwargs).last_hidden_state)


def can_pack(model: Any) -> bool:
    """Whether a classifier can read rows laid end to end: it is one of transformers' that score the last token, was
    loaded with attention that knows where rows end, and two short rows get the hidden states that they get alone."""
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as KNOWN

    inner = bare(model)
    ours = type(inner) in KNOWN.values() and isinstance(getattr(inner, HEAD, None), nn.Module)
    return ours and inner.config._attn_implementation == VARLEN and bool(can_isolate(TrunkView(model)))


class Scorer:
    """A classifier with one output, asked in evaluation mode; it comes out as it was."""

    def __init__(self, model: Any, *, batch: int) -> None:
        """``batch``: rows that are read at once."""
        self.model, self.batch = model, batch
        self._packs: bool | None = None

    def __call__(self, rows: Sequence[list[int]]) -> list[float]:
        """A score for each row of tokens, read at its last token that is not the pad token of the model's
        configuration: where transformers' classifiers look."""
        order = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
        scores = [0.0] * len(rows)
        with reading(self.model):
            if self._packs is None:
                self._packs = can_pack(self.model)
            read = self._packed if self._packs else self._padded
            for start in range(0, len(order), self.batch):
                some = order[start : start + self.batch]
                for row, score in zip(some, read([rows[row] for row in some]).tolist(), strict=True):
                    scores[row] = score
        return scores

    def _packed(self, rows: Sequence[list[int]]) -> Tensor:
        """(B,) fp32"""
        inner = bare(self.model)
        device, pad = next(inner.parameters()).device, inner.config.pad_token_id
        ids = torch.tensor([[token for row in rows for token in row]], device=device)  # (1, T)
        places = torch.tensor([[place for row in rows for place in range(len(row))]], device=device)
        ends, start = [], 0
        for row in rows:
            ends.append(start + _last(row, pad))
            start += len(row)
        states = inner.base_model(
            input_ids=ids, position_ids=places, document_lengths=[len(row) for row in rows], use_cache=False
        ).last_hidden_state[0]  # (T, D)
        found: Tensor = getattr(inner, HEAD)(states[torch.tensor(ends, device=device)])[:, 0]
        return found.float()

    def _padded(self, rows: Sequence[list[int]]) -> Tensor:
        """(B,) fp32"""
        inner = bare(self.model)
        device, pad = next(inner.parameters()).device, inner.config.pad_token_id
        if pad is None:  # such a model reads the last token, whatever it is: nothing may stand behind it
            return torch.cat([self._called(torch.tensor([row], device=device), None) for row in rows])
        length = max(len(row) for row in rows)
        ids = torch.tensor([row + [pad] * (length - len(row)) for row in rows], device=device)  # (B, T)
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], device=device)
        return self._called(ids, mask)

    def _called(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        found: Tensor = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0]
        return found.float()


def _last(row: Sequence[int], pad: int | None) -> int:
    """The place of the last token that is no pad token; the first place where all are."""
    return next((place for place in range(len(row) - 1, -1, -1) if row[place] != pad), 0)
