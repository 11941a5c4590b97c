"""Answers drawn from a model: several to each prompt, each by chances of its own.

What is drawn depends on the seed, the prompt's number and the sample's number, not on what is answered beside it nor on
the device. So a run that goes on where it stopped, or with another batch size, writes the same answers (in fp32; in
bf16 the logits themselves depend a little on the shape of the batch).

Letters: B answers being written, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignkit.data.encoding.tokenizing import prompt_ids
from alignkit.data.rows import Message
from alignkit.evaluation.decoding import Choice, draw, likeliest, write
from alignkit.evaluation.inference import reading
from alignkit.evaluation.stopping import stop_tokens
from alignkit.models.few_rows import few_rows


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One answer."""

    text: str
    """Without special tokens, otherwise as written."""
    ids: list[int]
    """The new tokens, the one that ended the answer among them. Empty where the prompt fills the model's context."""
    finished: bool
    """Whether the model ended the answer itself, before the limit did."""


def sample_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[Message] | str],
    *,
    samples: int = 1,
    max_new_tokens: int,
    temperature: float,
    top_p: float = 1.0,
    seed: int,
    batch: int,
    numbers: Sequence[int] | None = None,
    tools: Sequence[list[dict[str, Any]] | None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[list[Sample]]:
    """``samples`` answers to each prompt, which is read once for all of them.

    Args:
        model: a causal language model, its PEFT wrapper, or a quantized one; comes back as it was.
        prompts: lists of messages, laid out by the tokenizer's chat template, or plain strings.
        max_new_tokens: longest answer in tokens; fewer where the model's context ends.
        temperature: divides the logits; 0: the likeliest token each time, so that all samples are the same.
        top_p: draw from the smallest set of tokens whose probability reaches it (Holtzman et al. 2020, section 3.1).
        batch: answers written at once.
        numbers: what tells each prompt's chances from another's; None: its place in ``prompts``.
        tools: for each prompt what it offers to call.
        progress: called with the number of prompts just answered.

    Raises:
        RequestError: the tokenizer has no chat template for a list of messages.
        ValueError: a prompt without a single token.
    """
    offered = tools if tools is not None else [None] * len(prompts)
    stop = stop_tokens(model, tokenizer)
    written = sample_ids(
        model,
        [prompt_ids(tokenizer, prompt, own) for prompt, own in zip(prompts, offered, strict=True)],
        stop=stop,
        pad_id=pad_id(tokenizer),
        samples=samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        batch=batch,
        numbers=numbers,
        progress=progress,
    )
    return [[as_sample(tokenizer, ids, stop) for ids in answers] for answers in written]


def sample_ids(
    model: Any,
    prompts: Sequence[list[int]],
    *,
    stop: Collection[int],
    pad_id: int,
    samples: int = 1,
    max_new_tokens: int,
    temperature: float,
    top_p: float = 1.0,
    seed: int,
    batch: int,
    numbers: Sequence[int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[list[list[int]]]:
    """As `sample_answers`, from tokens to tokens: for each prompt its answers, with the token that ended each."""
    if empty := [number for number, ids in enumerate(prompts) if not ids]:
        raise ValueError(f"prompt {empty[0]} holds no token, so there is nothing to go on from")
    known = numbers if numbers is not None else range(len(prompts))
    # Longest first: if memory does not suffice, that shows in the first batch. Similar lengths: little is padded.
    order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))
    per_batch = max(1, batch // samples)
    answers: list[list[list[int]]] = [[] for _ in prompts]
    with reading(model), few_rows(model):
        device = next(model.parameters()).device
        for start in range(0, len(order), per_batch):
            rows = order[start : start + per_batch]
            choose: Choice = likeliest
            if temperature:
                chances = uniforms(seed, [known[row] for row in rows], samples, max_new_tokens)
                choose = _by_chance(torch.from_numpy(chances).to(device), temperature, top_p)
            written = write(
                model,
                [prompts[row] for row in rows],
                stop=stop,
                max_new_tokens=max_new_tokens,
                pad_id=pad_id,
                copies=samples,
                at_once=batch,
                choose=choose,
            )
            for place, row in enumerate(rows):
                answers[row] = written[place * samples : (place + 1) * samples]
            if progress is not None:
                progress(len(rows))
    return answers


def uniforms(seed: int, numbers: Sequence[int], samples: int, steps: int) -> NDArray[np.float64]:
    """Chances in [0, 1), (len(numbers) · samples, steps): a stream for each prompt and sample (Salmon et al. 2011)."""
    streams = np.empty((len(numbers) * samples, steps))
    for row in range(len(streams)):
        number, sample = numbers[row // samples], row % samples
        sequence = np.random.SeedSequence([seed, number, sample])
        streams[row] = np.random.Generator(np.random.Philox(sequence)).random(steps)
    return streams


def _by_chance(chances: Tensor, temperature: float, top_p: float) -> Choice:
    def choose(logits: Tensor, rows: list[int], step: int) -> Tensor:
        return draw(logits, chances[rows, step], temperature=temperature, top_p=top_p)

    return choose


def as_sample(tokenizer: Any, ids: list[int], stop: Collection[int]) -> Sample:
    """Tokens of an answer as text; the one that ended it is not shown."""
    finished = bool(ids) and ids[-1] in stop
    text: str = tokenizer.decode(
        ids[:-1] if finished else ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return Sample(text=text, ids=ids, finished=finished)


def pad_id(tokenizer: Any) -> int:
    """A token id to fill with; masked wherever it stands, so any will do."""
    for value in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(value, int):
            return value
    return 0
