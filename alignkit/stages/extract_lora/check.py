"""What is wrong with an extraction, told by the headers of the two models: before a run is opened."""

from __future__ import annotations

from alignkit.config.sections import Model
from alignkit.errors import Fault, RequestError
from alignkit.models.locating import locate
from alignkit.stages.extract_lora.difference import Pair
from alignkit.stages.extract_lora.recipe import Recipe
from alignkit.stages.merge.adapters import TensorModel
from alignkit.stages.merge.parents import fetch, is_at_hand, open_parent


def check(recipe: Recipe) -> list[Fault]:
    """Every fault of models that are on this machine; what has to be fetched first is looked at by the run."""
    try:
        if not all(is_at_hand(locate(section)) for section in (recipe.model, recipe.extract.base)):
            return []
    except RequestError:  # said by the check of the sections
        return []
    return opened(recipe)[1]


def opened(recipe: Recipe) -> tuple[Pair | None, list[Fault]]:
    """The two models side by side; what is not here is fetched. None where one could not be opened."""
    models: list[TensorModel] = []
    faults: list[Fault] = []
    for where, section in (("model", recipe.model), ("extract.base", recipe.extract.base)):
        try:
            models.append(_open(where, section))
        except RequestError as error:
            faults += error.faults
    if faults:
        return None, faults
    tuned, base = models
    kinds = [model.config.get("model_type") for model in models]
    if kinds[0] != kinds[1]:
        what = f"is a {kinds[1]}, and the fine-tune a {kinds[0]}"
        return None, [Fault(where="extract.base.name", what=what, instead="Give the base that it was fine-tuned from.")]
    return Pair.match(tuned, base)


def _open(where: str, section: Model) -> TensorModel:
    return open_parent(where, section, fetch(locate(section), where)).weights
