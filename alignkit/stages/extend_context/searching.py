"""LongRoPE's factors, found on the user's own long documents and kept with the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from alignkit.config.rope import RopeOptions
from alignkit.console import log
from alignkit.data.rows import Encoded
from alignkit.errors import Fault, RequestError
from alignkit.evaluation.scoring import held_out_loss, perplexity
from alignkit.models.rope import plan_rope, read_rope
from alignkit.models.rope.live import tried_rope
from alignkit.models.rope.search import Factors, largest_factor, search_factors, start_candidates
from alignkit.runs.directory import RunDirectory
from alignkit.stages.extend_context.evaluation import ends_of

MARK = "longrope"


def with_factors(
    options: RopeOptions, config: Any, target: int, rows: Sequence[Encoded], model: Any, run: RunDirectory, *, seed: int
) -> RopeOptions:
    """The options, with factors where LongRoPE has none yet: those that the run has found, or the best of a search.

    ``rows``: training rows; the longest of them judge the candidates. Raises RequestError where there are none.
    """
    if options.method != "longrope" or options.longrope.long_factor:
        return options
    known = run.read_mark(MARK)
    if known is None:
        known = _search(options, config, target, rows, model, seed)
        run.mark(MARK, known)
    return replace(options, longrope=replace(options.longrope, long_factor=known["factors"]))


def _search(
    options: RopeOptions, config: Any, target: int, rows: Sequence[Encoded], model: Any, seed: int
) -> dict[str, Any]:
    section = options.longrope.search
    if not len(rows):
        raise RequestError(
            Fault(
                where="context.longrope.long_factor",
                what="is not given, and there is no data to search it on",
                instead="Give the factors, or data=… with long documents.",
            )
        )
    lengths = np.array([len(row) for row in rows])
    texts = ends_of([rows[int(number)] for number in np.argsort(-lengths, kind="stable")[: section.texts]])
    state = read_rope(config, options.original)

    def judged(factors: Factors) -> float:
        tried = replace(options, longrope=replace(options.longrope, long_factor=list(factors)))
        with tried_rope(model, plan_rope(config, tried, target)):
            return perplexity(held_out_loss(model, texts, pad_id=0)["loss"])

    log.say(f"searching LongRoPE's factors on {len(texts)} documents of up to {max(map(len, texts)):,} tokens")
    found = search_factors(
        judged,
        start_candidates(state, target),
        largest_factor(state, target),
        section,
        seed=seed,
        tell=log.say,
    )
    start = ", ".join(f"{name} {value:.3f}" for name, value in found.start.items())
    log.say(f"perplexity {found.perplexity:.3f} after {found.judged} candidates; it started from {start}")
    return {
        "factors": list(found.factors),
        "perplexity": found.perplexity,
        "start": found.start,
        "judged": found.judged,
    }
