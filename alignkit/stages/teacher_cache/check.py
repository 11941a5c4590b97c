"""What is wrong with a cache, told before a model is read."""

from __future__ import annotations

from alignkit.errors import Fault, RequestError
from alignkit.models.jsonfile import read_object
from alignkit.models.sources import Source, locate
from alignkit.stages.teacher_cache.recipe import Recipe


def check(recipe: Recipe) -> list[Fault]:
    """More entries than the teacher has tokens."""
    try:
        vocabulary = _vocabulary(locate(recipe.teacher))
    except RequestError:  # said by the check of the model
        return []
    entries = recipe.cache.entries
    if vocabulary is None or entries == "all" or recipe.cache.kind != "top-k" or entries <= vocabulary:
        return []
    return [too_many(entries, vocabulary)]


def too_many(entries: int, vocabulary: int) -> Fault:
    """More of the likeliest tokens than there are tokens."""
    return Fault(
        where="cache.entries",
        what=f"{entries:,} is more than the {vocabulary:,} tokens that the teacher's vocabulary has",
        instead=f"Write cache.entries={min(50, vocabulary)}, or all (with cache.max_bytes=null).",
    )


def _vocabulary(source: Source) -> int | None:
    """Tokens of a model by its config.json; None where that is not at hand, or says nothing of it."""
    while source.adapter and source.parent is not None:
        source = source.parent
    if source.path is None or not (source.path / "config.json").is_file():
        return None
    config = read_object(source.path / "config.json", "teacher.name")
    found = config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size"))
    return found if isinstance(found, int) else None
