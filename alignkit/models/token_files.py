"""What a saved adapter says about tokens, put into the base it is loaded on: room for new ones, rows, where to stop."""

from __future__ import annotations

from typing import Any

import torch

from alignkit.errors import Fault, RequestError
from alignkit.models.locating import Source, read_origin
from alignkit.models.vocabulary import resize, write_rows

ROWS = ".token_adapter.trainable_tokens_delta"
"""PEFT's key of trained rows, behind the name of the module they belong to."""


def put_tokens(model: Any, source: Source, config: Any, state: dict[str, torch.Tensor]) -> None:
    """Give `model` the vocabulary and the trained rows of the adapter at `source`; both leave `config` and `state`.

    The rows go into the weights for good: embeddings and heads are never quantized, so that nothing is lost, and
    adapters that lie on one another need no order among their rows.
    """
    assert source.path is not None
    origin = read_origin(source.path)
    noted = (origin or {}).get("vocabulary")
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if isinstance(noted, dict):
        resize(inner, int(noted["rows"]), int(noted["mean_of"]))
    wanted = config.trainable_token_indices
    if wanted:
        _write_all(inner, source, wanted, state)
        config.trainable_token_indices = None
    if origin is not None and (source.path / "generation_config.json").exists():
        from transformers import GenerationConfig

        inner.generation_config = GenerationConfig.from_pretrained(source.path)


def _write_all(inner: Any, source: Source, wanted: Any, state: dict[str, torch.Tensor]) -> None:
    embedding = inner.get_input_embeddings()
    if not isinstance(wanted, dict):  # PEFT's short form: the embedding
        wanted = {next(name for name, module in inner.named_modules() if module is embedding): wanted}
    highest = max((max(ids) for ids in wanted.values() if ids), default=-1)
    before = len(embedding.weight)
    resize(inner, highest + 1, before)  # an adapter from elsewhere: PEFT does not say how large the base was made
    for name, ids in wanted.items():
        keys = [key for key in state if key.endswith(f"{name}{ROWS}")]
        if len(keys) != 1:
            if _is_tied(inner, name):  # PEFT saves what is tied once
                continue
            raise RequestError(
                Fault(
                    where="model.name",
                    what=f"the adapter {source.path} names trained tokens of {name} and does not hold their rows",
                    instead="Save or download it again.",
                )
            )
        module = inner.get_submodule(keys[0].removeprefix("base_model.model.").removesuffix(ROWS))
        write_rows(module, ids, state.pop(keys[0]))


def _is_tied(inner: Any, name: str) -> bool:
    head = inner.get_output_embeddings()
    if head is None or head.weight is not inner.get_input_embeddings().weight:
        return False
    return any(module is head for full, module in inner.named_modules() if full.endswith(name))
