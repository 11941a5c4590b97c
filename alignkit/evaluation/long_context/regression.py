"""What a longer window cost at the lengths that the model could read before, in sentences."""

from __future__ import annotations

from dataclasses import replace

from alignkit.evaluation.long_context.scores import AtLength, LongScores

ALLOWED = 0.02
"""Share by which short perplexity may rise, and exact match fall."""
REMEDY = "mix in more short rows, train longer, or lower the learning rate"


def compared(before: LongScores, after: LongScores, *, within: int | None = None) -> LongScores:
    """``after`` with what is to be warned of beside ``before``.

    Args:
        within: the window before the stretch, in tokens; None: the one that ``before`` says.
    """
    sentences = regressions(before, after, within=within)
    kept = [sentence for sentence in after.warnings if sentence not in sentences]
    return replace(after, warnings=[*kept, *sentences])


def regressions(before: LongScores, after: LongScores, *, within: int | None = None) -> list[str]:
    """Perplexity that rose, and exact match that fell, by more than 2% where the context is short; perplexity that
    still rises within the new window."""
    window = within if within is not None else before.window
    found = []
    old = {one.length: one for one in before.perplexity}
    risen = [
        (old[one.length], one)
        for one in after.perplexity
        if one.length in old and (window is None or one.length <= window) and _worse(old[one.length], one)
    ]
    if risen:
        worst = max(risen, key=lambda pair: pair[1].loss - pair[0].loss)
        found.append(
            f"perplexity at {worst[1].length:,} tokens rose from {worst[0].perplexity:.4g} to "
            f"{worst[1].perplexity:.4g}, by more than {ALLOWED:.0%}, where the model read well before: {REMEDY}"
        )
    found += _short(before, after)
    found += _still_rising(after, window)
    return found


def _short(before: LongScores, after: LongScores) -> list[str]:
    if before.short is None or after.short is None:
        return []
    found = []
    was, now = before.short.perplexity, after.short.perplexity
    if not now <= was * (1 + ALLOWED):
        found.append(
            f"perplexity of the short rows rose from {was:.4g} to {now:.4g}, by more than {ALLOWED:.0%}: {REMEDY}"
        )
    exact_before, exact_after = before.short.exact_match, after.short.exact_match
    if exact_before is not None and exact_after is not None and exact_after < exact_before - ALLOWED:
        found.append(
            f"exact match of the short rows fell from {exact_before:.0%} to {exact_after:.0%}, by more than "
            f"{ALLOWED:.0%}: {REMEDY}"
        )
    return found


def _still_rising(after: LongScores, old: int | None) -> list[str]:
    """Between the old window and the new one more context should help, or at least not hurt."""
    if old is None or after.window is None or after.window <= old:
        return []
    short = [one for one in after.perplexity if one.length <= old]
    stretched = [one for one in after.perplexity if old < one.length <= after.window]
    if not short or not stretched or not _worse(short[-1], stretched[-1]):
        return []
    return [
        f"perplexity rises with length: {short[-1].perplexity:.4g} at {short[-1].length:,} tokens, "
        f"{stretched[-1].perplexity:.4g} at {stretched[-1].length:,}: the window is not learned yet"
    ]


def _worse(old: AtLength, new: AtLength) -> bool:
    """By more than what is allowed; NaN is."""
    return not new.perplexity <= old.perplexity * (1 + ALLOWED)
