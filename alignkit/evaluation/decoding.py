"""One token after another: greedy decoding of many prompts at once, and of one prompt with its cache kept.

Letters: B rows still being written, S tokens in the cache, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor

from alignkit.evaluation.cache import grow_in_place
from alignkit.evaluation.inference import context_length, forward_arguments


class Decoder:
    """A model and the cache of what it has read. The caller holds ``reading(model)``."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self._arguments = forward_arguments(model)
        # State-space models name their cache differently, and want no mask once the prompt is read.
        self._stateful = "cache_params" in self._arguments
        self._cache_name = "cache_params" if self._stateful else "past_key_values"
        self.cache: Any = None

    def read(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Feed (B, n) new tokens; logits (B, V) after the last of them.

        ``mask`` (B, S + n) has 0 for padding and covers what is in the cache too; None: no padding anywhere.
        """
        inputs: dict[str, Any] = {"input_ids": ids, "use_cache": True}
        if self.cache is not None:
            inputs[self._cache_name] = self.cache
        if mask is not None:
            if self.cache is None or not self._stateful:
                inputs["attention_mask"] = mask
            if "position_ids" in self._arguments:
                inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        if "logits_to_keep" in self._arguments:
            inputs["logits_to_keep"] = 1
        output = self.model(**inputs)
        if self.cache is None:
            self.cache = getattr(output, self._cache_name)
            grow_in_place(self.cache)
        logits: Tensor = output.logits[:, -1]
        return logits

    def keep(self, rows: Tensor) -> None:
        """Drop every row of the batch but these (indices)."""
        self.cache.reorder_cache(rows)


def greedy(
    model: Any, prompts: list[list[int]], *, stop: Collection[int], max_new_tokens: int, pad_id: int
) -> list[list[int]]:
    """Most likely continuation of each prompt, all in one batch, as new token ids including the one that ended it.

    The same tokens as transformers' ``generate(do_sample=False)`` in fp32. A row that has ended leaves the batch, so
    one long answer does not keep the others computing. Nothing is written beyond the model's context.
    """
    rooms = [room(model, len(prompt), max_new_tokens) for prompt in prompts]
    written: list[list[int]] = [[] for _ in prompts]
    alive = [row for row, tokens in enumerate(rooms) if tokens]  # B of them
    if not alive:
        return written
    decoder = Decoder(model)
    length = max(len(prompts[row]) for row in alive)
    padding = [length - len(prompts[row]) for row in alive]
    ids = torch.tensor(
        [[pad_id] * pad + prompts[row] for row, pad in zip(alive, padding, strict=True)], device=decoder.device
    )  # (B, S)
    mask: Tensor | None = None
    if any(padding):
        mask = torch.tensor([[0] * pad + [1] * (length - pad) for pad in padding], device=decoder.device)
    while True:
        ids = decoder.read(ids, mask).argmax(-1, keepdim=True)  # (B, 1)
        going: list[int] = []
        for place, token in enumerate(ids[:, 0].tolist()):
            row = alive[place]
            written[row].append(token)
            if token not in stop and len(written[row]) < rooms[row]:
                going.append(place)
        if not going:
            return written
        if len(going) < len(alive):
            alive = [alive[place] for place in going]
            rows = torch.tensor(going, device=decoder.device)
            decoder.keep(rows)
            ids = ids[rows]
            mask = None if mask is None else mask[rows]
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)


def room(model: Any, prompt_tokens: int, wanted: int) -> int:
    """How many of ``wanted`` new tokens fit behind the prompt in the model's context."""
    limit = context_length(model)
    return wanted if limit is None else max(0, min(wanted, limit - prompt_tokens))


def sample(logits: Tensor, *, temperature: float, top_p: float, generator: torch.Generator | None) -> int:
    """Draw one id from (V,) logits: the most likely at temperature 0, else from the smallest set of ids whose
    probability reaches ``top_p`` (Holtzman et al. 2020, section 3.1)."""
    if temperature == 0:
        return int(logits.argmax())
    probabilities, order = torch.softmax(logits.float() / temperature, -1).sort(descending=True)
    # The id that crosses top_p belongs to the set: what comes before it is still below.
    probabilities[probabilities.cumsum(0) - probabilities >= top_p] = 0
    return int(order[torch.multinomial(probabilities, 1, generator=generator)])


def continuation(
    decoder: Decoder,
    ids: list[int],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    generator: torch.Generator | None,
) -> Iterator[int]:
    """Token after token of one answer: feeds ``ids`` (what the cache does not hold yet), then each token drawn."""
    for _ in range(max_new_tokens):
        logits = decoder.read(torch.tensor([ids], device=decoder.device), None)
        token = sample(logits[0], temperature=temperature, top_p=top_p, generator=generator)
        yield token
        ids = [token]
