"""What is wrong with a merge, told by the headers of its models: before a run is opened, before the first byte."""

from __future__ import annotations

from alignkit.errors import Fault, RequestError
from alignkit.stages.merge import adapter_merge, files
from alignkit.stages.merge.adapters import AdaptedModel
from alignkit.stages.merge.parents import Parents, fetch, gives_adapter, is_at_hand, open_parent, sections, sources
from alignkit.stages.merge.plan import Plan, make_plan
from alignkit.stages.merge.recipe import MergeOptions, Recipe
from alignkit.stages.merge.vocabulary import Together, bring_together


def check(recipe: Recipe) -> list[Fault]:
    """Every fault of a merge whose models are on this machine; what has to be fetched first is looked at by the run."""
    found, faults = sources(recipe.merge)
    if faults or not all(is_at_hand(source) for source in found.values()):
        return []  # what lies nowhere is said by the check of the sections
    if gives_adapter(recipe.merge, found):
        return adapter_merge.faults(recipe, found)
    return plan_of(recipe)[1]


def plan_of(recipe: Recipe) -> tuple[Plan | None, list[Fault]]:
    """The plan and the faults; without a plan where a model could not be opened. What is not here is fetched."""
    found, faults = sources(recipe.merge)
    if faults:
        return None, faults
    opened = {}
    for where, section in sections(recipe.merge).items():
        try:
            opened[where] = open_parent(where, section, fetch(found[where], where))
        except RequestError as error:
            faults += error.faults
    if faults:
        return None, faults
    base = opened.pop("merge.base", None)
    together = Parents(list(opened.values()), base)
    notes = [note for one in together.all if isinstance(one.weights, AdaptedModel) for note in one.weights.notes]
    vocabulary = None
    try:
        vocabulary = _one_vocabulary(recipe.merge, together)
    except RequestError as error:
        faults += error.faults
    plan, more = make_plan(recipe, together, vocabulary)
    if vocabulary is None and not faults:
        more += files.tokenizer_faults(together)
    plan.remarks += notes
    plan.remarks += vocabulary.notes if vocabulary is not None else files.remarks(together)
    return plan, [*faults, *more]


def _one_vocabulary(options: MergeOptions, together: Parents) -> Together | None:
    """Bring the vocabularies together where that is asked for, or where the embeddings have different rows."""
    rows = {parent.shapes[parent.embedding][0] for parent in together.all if parent.embedding is not None}
    if options.tokenizer is None and options.pad_to_multiple is None and len(rows) < 2:
        return None
    every = together.all
    found = bring_together(
        [parent.weights for parent in every],
        [parent.files for parent in every],
        every.index(together.leading),
        choice=options.tokenizer,
        multiple=options.pad_to_multiple,
    )
    for parent, moved in zip(every, found.models, strict=True):
        parent.weights = moved
    return found
