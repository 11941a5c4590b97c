"""What is wrong with a request to judge answers, told before a model is read; a reward model as what is evaluated."""

from __future__ import annotations

from alignkit.errors import Fault, RequestError
from alignkit.models.sources import check, locate, scorer_faults
from alignkit.rewards.mixture import source_faults
from alignkit.rewards.recipe import RewardSource, code_fault
from alignkit.stages.reward.asked import RewardEvalRecipe


def as_judge(recipe: RewardEvalRecipe) -> None:
    """`alignkit eval RM`: a reward model that stands where the model is wanted judges the answers of the data."""
    if recipe.reward is None and recipe.model.name and _is_scorer(recipe):
        recipe.reward = RewardSource(name="model", model=recipe.model)
        recipe.answers = "data"


def reward_faults(recipe: RewardEvalRecipe, allow_code: bool) -> list[Fault]:
    """Rewards that cannot be made, and a model that gives no answers."""
    if recipe.reward is None:
        return []
    faults = list(source_faults(recipe.reward, "reward"))
    if recipe.reward.function is not None and not allow_code:
        faults.append(code_fault(recipe.reward, "reward"))
    if recipe.reward.model is not None and recipe.reward.model is not recipe.model:
        faults += check(recipe.reward.model, where="reward.model")
    if recipe.answers != "data" and recipe.model.name and _is_scorer(recipe):
        faults += scorer_faults(locate(recipe.model), "model")
    return faults


def _is_scorer(recipe: RewardEvalRecipe) -> bool:
    try:
        return bool(scorer_faults(locate(recipe.model), "model"))
    except RequestError:  # said by the check of the model
        return False
