"""Answers to many prompts: greedy, in batches of similar length, in the order that they were asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from alignkit.data.encoding.tokenizing import prompt_ids
from alignkit.data.rows import Message
from alignkit.evaluation.decoding import greedy
from alignkit.evaluation.inference import reading
from alignkit.evaluation.stopping import stop_tokens


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model wrote."""

    text: str
    """Without special tokens, otherwise as written."""
    tokens: int
    """New tokens, the one that ended the answer among them."""
    finished: bool
    """Whether the model ended the answer itself, before the limit did."""


def generate_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[Message] | str],
    *,
    max_new_tokens: int,
    batch: int,
    progress: Callable[[int], None] | None = None,
    tools: Sequence[list[dict[str, Any]] | None] | None = None,
) -> list[Answer]:
    """The model's most likely answer to each prompt.

    Args:
        model: a causal language model, its PEFT wrapper, or a quantized one; comes back as it was.
        prompts: lists of messages, laid out by the tokenizer's chat template, or plain strings.
        max_new_tokens: longest answer in tokens; fewer where the model's context ends.
        batch: prompts answered at once.
        progress: called with the number of prompts just answered.
        tools: for each prompt what it offers to call.

    Raises:
        RequestError: the tokenizer has no chat template for a list of messages.
    """
    offered = tools if tools is not None else [None] * len(prompts)
    ids = [prompt_ids(tokenizer, prompt, own) for prompt, own in zip(prompts, offered, strict=True)]
    stop = stop_tokens(model, tokenizer)
    pad = pad_id(tokenizer)
    # Longest first: if memory does not suffice, that shows in the first batch.
    order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
    answers: dict[int, Answer] = {}
    with reading(model):
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            written = greedy(model, [ids[row] for row in rows], stop=stop, max_new_tokens=max_new_tokens, pad_id=pad)
            for row, tokens in zip(rows, written, strict=True):
                answers[row] = _answer(tokenizer, tokens, stop)
            if progress is not None:
                progress(len(rows))
    return [answers[row] for row in range(len(ids))]


def pad_id(tokenizer: Any) -> int:
    """A token id to fill with; masked wherever it stands, so any will do."""
    for value in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(value, int):
            return value
    return 0


def _answer(tokenizer: Any, tokens: list[int], stop: frozenset[int]) -> Answer:
    finished = bool(tokens) and tokens[-1] in stop
    text: str = tokenizer.decode(
        tokens[:-1] if finished else tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return Answer(text=text, tokens=len(tokens), finished=finished)
