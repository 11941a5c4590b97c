"""The suite on one model: perplexity by length, retrieval by depth and length, and rows that a short context does."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from alignkit.config.sections import Evaluation
from alignkit.console import log
from alignkit.console.progress import counting
from alignkit.errors import Fault, RequestError
from alignkit.evaluation.inference import context_length, reading
from alignkit.evaluation.long_context.material import Material
from alignkit.evaluation.long_context.perplexity import choose_places, curve_of
from alignkit.evaluation.long_context.reading import OnRead, position_limit
from alignkit.evaluation.long_context.recipe import Suite
from alignkit.evaluation.long_context.retrieval import Questions, cells
from alignkit.evaluation.long_context.scores import LongScores
from alignkit.evaluation.probe import probe
from alignkit.evaluation.scores import Scores

CALLED = {"passkey": "passkeys", "needle": "keys among others", "chain": "variable tracking"}


def long_context(
    model: Any,
    tokenizer: Any,
    suite: Suite,
    material: Material | None = None,
    *,
    lengths: Sequence[int] | None = None,
    when: str = "",
    progress: bool = True,
    where: str = "suite",
) -> LongScores:
    """Measure ``model`` with the suite, and leave it as it was.

    Args:
        material: texts and rows, from `material.read_material` or `of_documents`; None: retrieval alone.
        lengths: in tokens; None: those of the suite for this model's window. Before and after a stretch they must be
            the same ones.
        when: "before" or "after", for the progress bar.
        progress: whether to show one.
        where: key of the section, for errors.

    Raises:
        RequestError: the model has no positions for one of the lengths, or nothing fits into any.
    """
    started = time.monotonic()
    material = material if material is not None else Material()
    window, limit = context_length(model), position_limit(model)
    chosen = sorted(set(lengths)) if lengths is not None else suite.chosen_lengths(window, further=limit is None)
    if limit is not None and chosen[-1] > limit:
        raise RequestError(
            Fault(
                where=f"{where}.lengths",
                what=f"{chosen[-1]} tokens, and the model has learned positions for {limit}",
                instead=f"Write lengths of at most {limit}.",
            )
        )
    places = choose_places(material.documents, material.prefix, chosen, windows=suite.windows, stride=suite.stride)
    questions = Questions(suite, tokenizer, chosen)
    if not (places.ends or questions.all or material.short):
        raise RequestError(
            Fault(
                where=f"{where}.lengths",
                what=f"no question fits into {chosen[-1]} tokens, and no document of the text has {chosen[0]}",
                instead="Write longer lengths, or give a longer text.",
            )
        )
    _say_too_short(questions)
    what = f"tokens read {when}".rstrip()
    with reading(model), _counted(what, places.tokens + questions.tokens(model), progress) as on_read:
        perplexity, positions = curve_of(model, places, on_read)
        answered = questions.ask(model, on_read)
    return LongScores(
        window=window,
        lengths=chosen,
        perplexity=perplexity,
        positions=positions,
        passkey=cells(answered, "passkey"),
        needles=cells(answered, "needle"),
        tracking=cells(answered, "chain"),
        short=_short(model, tokenizer, material),
        asked=[one.graded() for one in answered],
        warnings=_left_out(material, places.lengths, chosen),
        seconds=time.monotonic() - started,
    )


def _short(model: Any, tokenizer: Any, material: Material) -> Scores | None:
    """Loss and, where there is something to compare, exact match of the short rows."""
    if not material.short:
        return None
    return probe(model, tokenizer, material.short, Evaluation(rows=len(material.short)))


def _left_out(material: Material, measured: Sequence[int], chosen: Sequence[int]) -> list[str]:
    """What was asked for and could not be measured, and why."""
    found = [f"left out: {sentence}" for sentence in material.left_out]
    beyond = [length for length in chosen if length not in measured]
    if material.documents and beyond:
        found.append(
            f"no document fills {_listed(beyond)} tokens (the longest has {material.longest:,}): "
            "perplexity is not measured there"
        )
    return found


def _say_too_short(questions: Questions) -> None:
    for kind, lengths in questions.too_short.items():
        log.detail(f"{CALLED[kind]}: not asked at {_listed(lengths)} tokens, too few for the question")


def _listed(lengths: Sequence[int]) -> str:
    return " and ".join(f"{length:,}" for length in lengths)


@contextmanager
def _counted(what: str, total: int, shown: bool) -> Iterator[OnRead]:
    if not shown:
        yield lambda count: None
        return
    with counting(what, total) as count:
        yield count
