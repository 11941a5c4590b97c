"""What is wrong with a request for answers, told before a model is read."""

from __future__ import annotations

from alignkit.errors import Fault, RequestError
from alignkit.models.sources import context_length, locate
from alignkit.stages.teacher_answers.recipe import Recipe

SHORTEST_PROMPT = 8
"""Tokens; data.max_length may be no less."""


def check(recipe: Recipe) -> list[Fault]:
    """Answers that leave no room for their prompts. A server knows its own limits."""
    if recipe.answers.server.url is not None:
        return []
    try:
        limit = context_length(locate(recipe.teacher))
    except RequestError:  # said by the check of the model
        return []
    if limit is None or limit - recipe.answers.max_new_tokens >= SHORTEST_PROMPT:
        return []
    return [
        Fault(
            where="answers.max_new_tokens",
            what=f"{recipe.answers.max_new_tokens} tokens leave no room for a prompt: the teacher reads {limit}",
            instead=f"Write answers.max_new_tokens={max(1, limit // 2)} or less.",
        )
    ]
