"""Long texts read in pieces, with what was read kept in the cache: beside that, memory does not grow with the text.

Letters: B texts of one length, L tokens in a text, S tokens scored, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import DynamicLayer

from alignkit.evaluation.cache import GrowingLayer
from alignkit.evaluation.decoding import Decoder
from alignkit.evaluation.inference import bare, forward_arguments

PIECE = 2048
"""Tokens that go through the model at once, over all texts of a batch."""
MASK_ENTRIES = 2**25
"""Of a piece against all that was read before: what an attention mask may hold."""
LOGIT_BYTES = 2**28
"""Of the fp32 logits of a piece."""
BY_LENGTH = ("dynamic", "longrope")
"""Rotary embeddings whose frequencies depend on how long the input is: read in pieces, the first keys would be turned
by other frequencies than the last."""

OnRead: TypeAlias = Callable[[int], None]
"""Told how many tokens have just been read."""


def turns_by_length(model: Any) -> bool:
    """Whether the model's rotary frequencies depend on the length of the input."""
    return bool(_types(getattr(bare(model).config.get_text_config(), "rope_parameters", None)) & set(BY_LENGTH))


def position_limit(model: Any) -> int | None:
    """Positions beyond which the model has none at all (learned ones); None for rotary and for no positions."""
    config = bare(model).config.get_text_config()
    if getattr(config, "rope_parameters", None) or not _learned_positions(model):
        return None
    limit = getattr(config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) else None


def token_losses(model: Any, ids: Tensor, scored: int, on_read: OnRead = lambda count: None) -> Tensor:
    """Negative log-likelihood in nats of the last ``scored`` tokens of each text, (B, S) fp32.

    ids (B, L), without padding; scored is at most L - 1. The caller holds ``reading(model)``.
    """
    batch, length = ids.shape
    if not 0 < scored < length:
        raise ValueError(f"{scored} tokens cannot be scored in a text of {length}")
    device = next(model.parameters()).device
    ids = ids.to(device)
    first = length - scored - 1  # the position that predicts the first token to be scored
    accepts = "logits_to_keep" in forward_arguments(model)
    losses, cache, at = [], None, 0
    piece = length if turns_by_length(model) else _piece(model, batch, length, scored)
    _forget_length(model)
    while at < length - 1:
        end = min(at + piece, length - 1)
        wanted = torch.arange(min(max(first, at), end) - at, end - at, device=device)  # positions in the piece
        inputs: dict[str, Any] = {"input_ids": ids[:, at:end], "use_cache": end < length - 1 or at > 0}
        if cache is not None:
            inputs["past_key_values"] = cache
        if accepts:
            inputs["logits_to_keep"] = wanted if len(wanted) else 1
        output = model(**inputs)
        cache = getattr(output, "past_key_values", None)
        if len(wanted):
            logits = output.logits if accepts else output.logits[:, wanted]  # (B, s, V)
            goals = ids[:, at + int(wanted[0]) + 1 : end + 1]
            losses.append(_losses(logits, goals))
        on_read((end - at) * batch)
        at = end
    return torch.cat(losses, dim=1)


def answers(
    model: Any, prompts: Sequence[list[int]], new: int, on_read: OnRead = lambda count: None
) -> list[list[int]]:
    """The ``new`` likeliest tokens after each prompt, one after the other; nothing ends them sooner.

    Prompts of one length go through together where they are short. Of long ones what two have in common at their
    beginning is read once: they are taken in the order of their tokens, and the cache is cut back to what the next one
    shares. The caller holds ``reading(model)``.
    """
    found: list[list[int]] = [[] for _ in prompts]
    for group in _together(prompts):
        decoder = Decoder(model)
        _forget_length(model)
        ids = torch.tensor([prompts[number] for number in group], device=decoder.device)
        for number, written in zip(group, _continue(decoder, _read(decoder, ids, on_read), new), strict=True):
            found[number] = written
    decoder = Decoder(model)
    held: list[int] = []
    for number in _alone(prompts):
        prompt = prompts[number]
        shared = _shared(held, prompt) if _can_go_back(decoder) else 0
        if shared:
            decoder.cache.crop(-(len(held) - shared))
        else:
            decoder = Decoder(model)
            _forget_length(model)
        logits = _read(decoder, torch.tensor([prompt[shared:]], device=decoder.device), on_read, behind=shared)
        found[number] = _continue(decoder, logits, new)[0]
        held = prompt + found[number][:-1]
    return found


def tokens_to_read(model: Any, prompts: Sequence[list[int]]) -> int:
    """What `answers` will read of prompts, as ``on_read`` counts it, where the model's cache can be cut back."""
    together = sum(len(prompts[number]) for group in _together(prompts) for number in group)
    held: list[int] = []
    for number in _alone(prompts):
        shared = 0 if turns_by_length(model) else _shared(held, prompts[number])
        together += len(prompts[number]) - shared
        held = prompts[number]
    return together


# --- what goes together -------------------------------------------------------------------------------------------


def _together(prompts: Sequence[list[int]]) -> list[list[int]]:
    """Numbers of short prompts, in batches of one length each."""
    short = [number for number in range(len(prompts)) if len(prompts[number]) <= PIECE // 2]
    short.sort(key=lambda number: len(prompts[number]))
    batches = []
    for length, same in itertools.groupby(short, key=lambda number: len(prompts[number])):
        numbers, width = list(same), max(1, 2 * PIECE // length)
        batches += [numbers[start : start + width] for start in range(0, len(numbers), width)]
    return batches


def _alone(prompts: Sequence[list[int]]) -> list[int]:
    """Numbers of long prompts, those that begin alike after one another."""
    return sorted((n for n in range(len(prompts)) if len(prompts[n]) > PIECE // 2), key=lambda n: prompts[n])


def _shared(held: list[int], prompt: list[int]) -> int:
    """Tokens at the beginning that two have in common; one is left to be read, since logits come of reading."""
    pairs = zip(held, prompt[:-1], strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(held), len(prompt) - 1))


def _can_go_back(decoder: Decoder) -> bool:
    """Whether the cache can forget its end and be as it was: windows and states cannot."""
    layers = getattr(decoder.cache, "layers", ())
    plain = all(type(layer) in (DynamicLayer, GrowingLayer) for layer in layers)
    return bool(layers) and plain and not turns_by_length(decoder.model)


# --- one piece after the other ------------------------------------------------------------------------------------


def _read(decoder: Decoder, ids: Tensor, on_read: OnRead, behind: int = 0) -> Tensor:
    """Feed (B, n) tokens behind those in the cache; logits (B, V) after the last."""
    batch, length = ids.shape
    piece = length if turns_by_length(decoder.model) else _piece(decoder.model, batch, behind + length, 1)
    logits = torch.empty(0)
    for part in ids.split(piece, dim=1):
        logits = decoder.read(part, None)
        on_read(part.numel())
    return logits


def _continue(decoder: Decoder, logits: Tensor, new: int) -> list[list[int]]:
    """The likeliest tokens from (B, V) logits on; the last one is not fed."""
    written = [logits.argmax(-1)]  # (B,) each
    for _ in range(new - 1):
        written.append(decoder.read(written[-1][:, None], None).argmax(-1))
    rows: list[list[int]] = torch.stack(written, dim=1).tolist()
    return rows


def _piece(model: Any, batch: int, length: int, scored: int) -> int:
    """Tokens of each text that go through at once, of which at most ``scored`` get logits."""
    vocabulary: int = bare(model).config.get_text_config().vocab_size
    logits = LOGIT_BYTES // (4 * vocabulary)
    piece = min(PIECE, MASK_ENTRIES // length)
    return max(16, (piece if batch * scored <= logits else min(piece, logits)) // batch)


def _losses(logits: Tensor, goals: Tensor) -> Tensor:
    """(B, s, V) and (B, s) -> (B, s) fp32, without a copy of all logits in fp32."""
    rows, wanted = logits.flatten(0, 1), goals.flatten()
    step = max(16, LOGIT_BYTES // (16 * rows.shape[-1]))
    parts = zip(rows.split(step), wanted.split(step), strict=True)
    return torch.cat([F.cross_entropy(part.float(), goal, reduction="none") for part, goal in parts]).view_as(goals)


# --- positions ----------------------------------------------------------------------------------------------------


def _forget_length(model: Any) -> None:
    """One token at position 0: an embedding that grew with a longer input goes back to its first frequencies."""
    if turns_by_length(model):
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=next(model.parameters()).device), use_cache=False)


def _types(parameters: Any) -> set[str]:
    """The rope types of a configuration, whether it has one set of parameters or one for each type of layer."""
    if not isinstance(parameters, dict):
        return set()
    own = {str(parameters["rope_type"])} if "rope_type" in parameters else set()
    return own.union(*(_types(one) for one in parameters.values()))


def _learned_positions(model: Any) -> bool:
    """Whether some embedding beside that of the tokens has a row for each position."""
    limit = getattr(bare(model).config.get_text_config(), "max_position_embeddings", None)
    tokens = bare(model).get_input_embeddings()
    return any(
        isinstance(module, torch.nn.Embedding)
        and module is not tokens
        and 0 <= module.num_embeddings - (limit or 0) < 8
        for module in bare(model).modules()
    )
