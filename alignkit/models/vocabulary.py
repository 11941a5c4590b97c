"""New tokens in a model: room for them in the embeddings, where their rows start, and when generation stops.

V rows of the embedding, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

WIDTH = 64
"""A matrix product on a GPU wants sides that are multiples of this; a vocabulary that is one stays one."""
UNTRAINED = 0.02
"""A row this much shorter than the typical one was never trained (reserved tokens of a base are zero, or nearly)."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """How a model's vocabulary was changed: enough to do the same to its base again.

    ``rows``: V after it. ``mean_of``: how many of the first rows gave the mean that the new ones start from.
    ``trained``: ids of the tokens whose rows training must move: the new ones, and old ones that never were trained.
    """

    rows: int
    mean_of: int
    trained: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "trained": list(self.trained)}


def fit_vocabulary(model: Any, tokenizer: Any, *, added: Sequence[str], written: Sequence[str]) -> Vocabulary:
    """Give `model` (or the model inside a PeftModel), in place, rows for what a template writes.

    Args:
        tokenizer: with the template installed.
        added: tokens that it got with the template.
        written: all special tokens that the template writes, `added` among them.

    New rows start as the mean of the old ones, in the embedding and in the head: by Jensen's inequality they then
    take at most k/V of the probability between them, so that the model predicts what it did (Hewitt 2021,
    "Initializing New Word Embeddings for Pretrained Language Models").
    """
    inner = _inner(model)
    weight = inner.get_input_embeddings().weight
    before, new = len(weight), sorted(tokenizer.convert_tokens_to_ids(list(added)))
    needed = max(len(tokenizer), *(token + 1 for token in new), 0)
    old = sorted(set(tokenizer.convert_tokens_to_ids(list(written))) - set(new))
    fresh = sorted({*new, *_never_trained(inner, [token for token in old if token < before])})
    mean_of = min([before, *new])
    rows = before
    if needed > before:
        rows = -(-needed // WIDTH) * WIDTH if before % WIDTH == 0 else needed
    resize(inner, rows, mean_of)
    _start_from_mean(inner, fresh, mean_of)
    return Vocabulary(rows, mean_of, tuple(fresh))


def resize(model: Any, rows: int, mean_of: int) -> None:
    """V becomes `rows`, in place, where it is less; what is new starts as the mean of the first `mean_of` rows."""
    inner = _inner(model)
    before = len(inner.get_input_embeddings().weight)
    if rows <= before:
        return
    with torch.random.fork_rng(devices=[]):
        inner.resize_token_embeddings(rows, mean_resizing=False)
    _start_from_mean(inner, range(before, rows), mean_of)


def stop_at_end(model: Any, tokenizer: Any, before: int | None) -> None:
    """The eos of `tokenizer` ends generation from now on, and what ended it before (also: `before`) still does."""
    inner = _inner(model)
    holders = [inner.config.get_text_config()]
    settings = getattr(inner, "generation_config", None)
    if settings is not None:
        known = settings.eos_token_id
        ends = [tokenizer.eos_token_id, *(known if isinstance(known, list) else [known]), before]
        settings.eos_token_id = list(dict.fromkeys(end for end in ends if end is not None))
        holders.append(settings)
    inner.config.get_text_config().eos_token_id = tokenizer.eos_token_id
    for holder in holders:
        holder.pad_token_id = tokenizer.pad_token_id
        if tokenizer.bos_token_id is not None:
            holder.bos_token_id = tokenizer.bos_token_id


@torch.no_grad()
def write_rows(module: Any, ids: Sequence[int], rows: torch.Tensor) -> None:
    """Put trained `rows` (k, D) into the weight of an embedding or a head, in the weight's format."""
    index = torch.tensor(list(ids), device=module.weight.device)
    module.weight.data[index] = rows.to(module.weight)


def _inner(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _matrices(model: Any) -> list[nn.Module]:
    """The embedding, and the head where it has a weight of its own."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    return [inputs] if outputs is None or outputs.weight is inputs.weight else [inputs, outputs]


@torch.no_grad()
def _start_from_mean(model: Any, ids: Sequence[int] | range, mean_of: int) -> None:
    if not len(ids):
        return
    for module in _matrices(model):
        weight: Any = module.weight
        index = torch.tensor(list(ids), device=weight.device)
        weight.data[index] = weight.data[:mean_of].mean(0, dtype=torch.float32).to(weight)
    bias = getattr(model.get_output_embeddings(), "bias", None)
    if bias is not None:
        index = torch.tensor(list(ids), device=bias.device)
        bias.data[index] = bias.data[:mean_of].mean(dtype=torch.float32).to(bias)


@torch.no_grad()
def _never_trained(model: Any, ids: Sequence[int]) -> list[int]:
    """Those of `ids` whose row, in the embedding or the head, is all but zero."""
    found: set[int] = set()
    for module in _matrices(model) if ids else []:
        weight: Any = module.weight
        typical = torch.linalg.vector_norm(weight.data[:4096].float(), dim=1).median()
        own = torch.linalg.vector_norm(weight.data[list(ids)].float(), dim=1)  # (k,)
        found |= {token for token, norm in zip(ids, own.tolist(), strict=True) if norm < UNTRAINED * float(typical)}
    return sorted(found)
