"""Rewards of the answers of a batch, whatever its layout: the trunk reads all tokens, the head the ends of answers.

Letters: A answers, B and T as the layout says, D hidden size.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from alignkit.data.branches import Branched
from alignkit.data.branching import Collator
from alignkit.evaluation.inference import bare, reading

MODEL_KEYS = ("input_ids", "attention_mask", "position_ids", "document_lengths", "branch_lengths", "reward_at")
"""What of a batch the model is called with."""

_ready: WeakSet[Any] = WeakSet()


def install_reward_forward(model: Any) -> Any:
    """Let ``model`` (a classifier, or its PEFT wrapper) take ``reward_at``: its logits are then (A, 1), one for each
    position that is named, of the (B·T) flattened ones. Every other call is as it was. Returns ``model``."""
    inner = bare(model)
    if inner in _ready:
        return model
    before = inner.forward

    def forward(self: Any, *args: Any, reward_at: Tensor | None = None, **kwargs: Any) -> Any:
        from transformers.modeling_outputs import SequenceClassifierOutput

        if reward_at is None:
            return before(*args, **kwargs)
        kwargs["use_cache"] = False
        hidden = self.base_model(*args, **kwargs).last_hidden_state  # (B, T, D)
        states = hidden.flatten(0, 1).index_select(0, reward_at.to(hidden.device))  # (A, D)
        return SequenceClassifierOutput(logits=self.score(states))  # (A, 1)

    inner.forward = types.MethodType(forward, inner)
    _ready.add(inner)
    return model


def rewards_of(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """(A,) fp32 rewards of a batch's answers, with their gradient where gradients are on."""
    given = {name: batch[name] for name in MODEL_KEYS if name in batch}
    rewards: Tensor = model(**given).logits[:, 0].float()
    return rewards


def score_rows(model: Any, rows: Sequence[Branched], collate: Collator, *, batch: int) -> NDArray[np.float64]:
    """(rows, answers of a row) rewards in evaluation mode, ``batch`` rows at a time, the longest first."""
    install_reward_forward(model)
    device = next(model.parameters()).device
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
    found: list[list[float]] = [[] for _ in rows]
    with reading(model):
        for some in _parts(order, batch):
            inputs = collate([rows[number] for number in some])
            inputs = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in inputs.items()}
            rewards = iter(rewards_of(model, inputs).tolist())
            for number in some:
                found[number] = [next(rewards) for _ in rows[number].branches]
    return np.asarray(found, np.float64)


def _parts(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(order), size):
        yield order[start : start + size]
