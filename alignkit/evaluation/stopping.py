"""Which tokens end an answer."""

from __future__ import annotations

from typing import Any

from alignkit.data.encoding.rendering import end_of_turn
from alignkit.errors import RequestError
from alignkit.evaluation.inference import bare


def stop_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids that end an answer: the model's and the tokenizer's eos, and what its chat template writes after a turn.

    The last matters for bases whose eos is an end-of-text token while their template closes turns with another.
    """
    found: set[int] = set()
    configured = getattr(getattr(bare(model), "generation_config", None), "eos_token_id", None)
    for value in (configured, tokenizer.eos_token_id, _end_of_turn_id(tokenizer)):
        if isinstance(value, int):
            found.add(value)
        elif value is not None:
            found.update(value)
    return frozenset(found)


def _end_of_turn_id(tokenizer: Any) -> int | None:
    try:
        token = end_of_turn(tokenizer)
    except RequestError:  # a template may refuse the short conversation that is tried: then it names no token
        return None
    found = None if token is None else tokenizer.convert_tokens_to_ids(token)
    return found if isinstance(found, int) else None
