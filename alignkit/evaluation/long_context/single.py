"""`alignkit eval MODEL suite=long-context`: one model, or a model beside what it was before."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path

from alignkit.config.sections import Model
from alignkit.console import log
from alignkit.evaluation.long_context.material import Material, read_material
from alignkit.evaluation.long_context.measure import long_context
from alignkit.evaluation.long_context.pictures import draw
from alignkit.evaluation.long_context.recipe import LongContextEvalRecipe
from alignkit.evaluation.long_context.regression import compared
from alignkit.evaluation.long_context.scores import LongScores
from alignkit.models.loading import load, load_tokenizer
from alignkit.models.locating import locate


def measure(
    recipe: LongContextEvalRecipe, *, digest_file: Callable[[Path], str]
) -> tuple[LongScores | None, LongScores]:
    """Scores of the reference, where there is one, and of the model; the plots are written where they are asked for.

    The model comes first: its window says how far both are measured.
    """
    source = locate(recipe.model)
    log.say(source.said)
    # The texts first: what is wrong with them should not have to wait for the weights.
    material = read_material(recipe.suite, load_tokenizer(recipe.model, source), digest_file=digest_file)
    before: LongScores | None = None
    after = _one(recipe, recipe.model, material, None, "after" if recipe.reference is not None else "")
    if recipe.reference is not None:
        gc.collect()
        before = _one(recipe, recipe.reference, None, after.lengths, "before", digest_file)
        after = compared(before, after)
    if recipe.pictures is not None:
        for path in draw(before, after, Path(recipe.pictures).expanduser()):
            log.say(f"wrote {path}")
    return before, after


def _one(
    recipe: LongContextEvalRecipe,
    model: Model,
    material: Material | None,
    lengths: Sequence[int] | None,
    when: str,
    digest_file: Callable[[Path], str] | None = None,
) -> LongScores:
    loaded = load(model, recipe.quantization, source=locate(model))
    if material is None:  # another model may have another tokenizer
        assert digest_file is not None
        material = read_material(recipe.suite, loaded.tokenizer, digest_file=digest_file)
    return long_context(loaded.model, loaded.tokenizer, recipe.suite, material, lengths=lengths, when=when)
