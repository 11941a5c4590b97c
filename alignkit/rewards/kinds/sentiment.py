"""Whether an answer sounds glad or cross, told by the words in it (English)."""

from __future__ import annotations

from alignkit.rewards.judged import Judged
from alignkit.rewards.kinds.kind import simple
from alignkit.rewards.lexicon import WORD, boosts, negates, worth

REACH = 3
"""Words ahead that a negator turns; a comma or the end of a sentence stops it."""
TURNED = -0.5
"""What a word counts behind a negator: "not great" blames less than "great" praises."""
BOOST = 1.5


def sentiment(answer: str) -> float:
    """(P - N) / (P + N + 1), P praise and N blame, strictly between -1 and 1; 0 where no word says anything.

    A word counts once in an answer however often it stands there, so that saying "great" again gains nothing. A negator
    up to three words before turns it and halves it, a word like "very" right before it makes it half as strong again.
    """
    said: dict[tuple[str, bool], float] = {}
    before: list[str] = []
    last = 0
    text = answer.casefold()
    for found in WORD.finditer(text):
        word = found[0].replace("’", "'")
        if any(mark in text[last : found.start()] for mark in ".,;:!?\n"):
            before = []
        last = found.end()
        value = worth(word)
        if value:
            negated = any(negates(one) for one in before[-REACH:])
            value *= (TURNED if negated else 1.0) * (BOOST if before and boosts(before[-1]) else 1.0)
            known = said.get((word, negated), 0.0)
            said[word, negated] = value if abs(value) > abs(known) else known
        before.append(word)
    praise = sum(value for value in said.values() if value > 0)
    blame = -sum(value for value in said.values() if value < 0)
    return (praise - blame) / (praise + blame + 1)


def of_answer(row: Judged) -> float:
    """`sentiment` of the answer."""
    return sentiment(row.answer)


SENTIMENT = simple("sentiment", "from -1 (cross) to 1 (glad), by a lexicon of English words", of_answer)
