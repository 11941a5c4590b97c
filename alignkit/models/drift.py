"""How far a merged model's predictions moved from those of the model it was merged from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn

from alignkit.errors import RunError

MAX_POSITIONS = 1024
"""Positions compared at most; each holds one fp32 log-probability per vocabulary entry in memory."""


class Row(Protocol):
    """One tokenized row: input_ids and labels of the same length, -100 where nothing is predicted."""

    input_ids: list[int]
    labels: list[int]


class Reference:
    """The predictions of a model on some rows, kept while the model is changed in place.

    Rows go through one at a time; compared are the labelled positions, the first MAX_POSITIONS of them.
    """

    def __init__(self, model: nn.Module, rows: Sequence[Row]) -> None:
        self.rows: list[tuple[list[int], list[int]]] = []
        self.log_probs: list[torch.Tensor] = []
        left = MAX_POSITIONS
        for row in rows:
            positions = [i - 1 for i, label in enumerate(row.labels) if label != -100 and i > 0][:left]
            if not positions:
                continue
            self.rows.append((row.input_ids, positions))
            self.log_probs.append(_log_probs(model, row.input_ids, positions).cpu())
            left -= len(positions)
            if left <= 0:
                break
        if not self.rows:
            raise RunError("No row has a labelled token, so there is nothing to measure the drift on.")

    def drift(self, merged: nn.Module) -> dict[str, float]:
        """Mean KL(reference || merged) in nats a token, share of tokens of the same first choice, their number."""
        kl = agreed = count = 0.0
        for (ids, positions), before in zip(self.rows, self.log_probs, strict=True):
            after = _log_probs(merged, ids, positions).cpu()  # (P, V)
            kl += float((before.exp() * (before - after)).sum())
            agreed += float((before.argmax(-1) == after.argmax(-1)).sum())
            count += len(positions)
        return {"kl": kl / count, "top1_agreement": agreed / count, "tokens": count}


def drift(reference: nn.Module, merged: nn.Module, rows: Sequence[Row]) -> dict[str, float]:
    """The drift between two models that both still stand."""
    return Reference(reference, rows).drift(merged)


@torch.no_grad()
def _log_probs(model: nn.Module, ids: list[int], positions: list[int]) -> torch.Tensor:
    """fp32 log-probabilities (P, V) of the tokens after `positions`, in eval mode."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    try:
        logits = model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits[0]  # (T, V)
    finally:
        model.train(was_training)
    return logits[torch.tensor(positions, device=logits.device)].float().log_softmax(-1)
