"""What is wrong with a policy's training, told before a model is read."""

from __future__ import annotations

from alignkit.errors import Fault, RequestError
from alignkit.models.sources import context_length, locate
from alignkit.rewards.mixture import faults_of
from alignkit.stages.rlhf.recipe import Recipe

SHORTEST_PROMPT = 8
"""Tokens; data.max_length may be no less."""


def check(recipe: Recipe) -> list[Fault]:
    """Rewards that cannot be made, and answers that leave no room for their prompts."""
    faults = [
        *faults_of(recipe.rlhf.rewards, "rlhf.rewards"),
        *faults_of(recipe.rlhf.true_reward, "rlhf.true_reward"),
    ]
    try:
        limit = context_length(locate(recipe.model))
    except RequestError:  # said by the check of the model
        limit = None
    if limit is not None and limit - recipe.rlhf.max_new_tokens < SHORTEST_PROMPT:
        faults.append(
            Fault(
                where="rlhf.max_new_tokens",
                what=f"{recipe.rlhf.max_new_tokens} tokens leave no room for a prompt: the model reads {limit}",
                instead=f"Write rlhf.max_new_tokens={max(1, limit // 2)} or less.",
            )
        )
    return faults
