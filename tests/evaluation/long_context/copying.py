"""A model that knows the tasks and nothing else: what a suite must give full marks to, and where it must give none."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig

QUESTIONS = (
    (r"The secret number is$", r"secret number is (\d{5})\. Remember"),
    (r"The code of the (?P<name>\w+ \w+) is$", r"The code of the {name} is (\d{{7}})\."),
)


class Copying(nn.Module):
    """Bytes in, bytes out (ids of tests.tiny's tokenizer): it goes on with what the text says. It sees the last
    ``sight`` tokens only."""

    def __init__(self, tokenizer: Any, sight: int = 10**9) -> None:
        super().__init__()
        self.tokenizer, self.sight = tokenizer, sight
        self.weight = nn.Parameter(torch.zeros(1))
        self.config = LlamaConfig(max_position_embeddings=600, vocab_size=259)

    def forward(
        self, input_ids: torch.Tensor, past_key_values: Any = None, use_cache: bool = False, logits_to_keep: int = 0
    ) -> Any:
        known = input_ids if past_key_values is None else torch.cat([past_key_values.ids, input_ids], dim=1)
        logits = torch.zeros(len(known), 1, 259)
        for row, ids in enumerate(known.tolist()):
            logits[row, 0, self._next(ids)] = 1.0
        cache = past_key_values if past_key_values is not None else SimpleNamespace(layers=())
        cache.ids = known
        return SimpleNamespace(logits=logits, past_key_values=cache)

    def _next(self, ids: list[int]) -> int:
        text = self.tokenizer.decode(ids)
        asked, _, begun = text.rpartition(" is")
        if begun and not re.fullmatch(r" \d*", begun):
            return 5
        seen = self.tokenizer.decode(ids[-self.sight :])
        for question, pattern in QUESTIONS:
            found = re.search(question, asked + " is")
            if found:
                answer = re.search(pattern.format(**found.groupdict()) if found.groupdict() else pattern, seen)
                whole = f" {answer[1]}" if answer else ""
                rest = whole[len(begun) :]
                return int(self.tokenizer(rest, add_special_tokens=False)["input_ids"][0]) if rest else 5
        return 5
