"""From one kind of document to another, where that is honest; everything else is refused with the reason and the fix.

Within an answer that was judged, the prompt is context: its own assistant turns carry no loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeAlias, cast

from alignkit.data.formats.cells import bad
from alignkit.data.formats.checkable import checkable
from alignkit.data.formats.demonstrations import joined
from alignkit.data.formats.order import OPEN
from alignkit.data.rows import (
    Completion,
    Conversation,
    Demonstration,
    Document,
    Feedback,
    Kind,
    Labelled,
    Message,
    Preference,
    Prompt,
    Ranking,
    Said,
    Scored,
    Text,
)
from alignkit.errors import Fault

Conversion: TypeAlias = Callable[[Any, Counter[str]], list[Document]]

UNWANTED = "answers marked as not wanted, left out"
NO_TOOLS = "rows whose tools on offer were left out, since feedback and rankings have none"

CALLED: dict[Kind, str] = {
    "demonstration": "answers to imitate",
    "preference": "preference pairs",
    "feedback": "unpaired feedback",
    "scored": "answers with a score",
    "ranking": "ranked answers",
    "prompt": "prompts to answer",
    "labelled": "labelled text",
}
"""The kinds for people."""

COLUMNS: dict[Kind, str] = {
    "demonstration": "`messages` (or ShareGPT's `conversations`), `instruction` and `output`, `prompt` and "
    "`completion`, `question` and `answer`, or `text`",
    "preference": "`chosen` and `rejected`, with `prompt` or whole conversations",
    "feedback": "`prompt`, `completion` and `label` (true or false)",
    "scored": "`prompt`, `completion` and `score` (a number), or pairs with `chosen_score` and `rejected_score`",
    "ranking": "`prompt`, `answers` (a list) and `scores` or `ranks`",
    "prompt": "`prompt` (and `answer`, where it can be checked)",
    "labelled": "`text` and `label`",
}
"""The columns that make a kind, for the sentence that says what would do."""


def refusal(found: Kind, wants: Kind, said: str = "", where: str = "data") -> Fault:
    """The fault of data of one kind for a stage that wants another."""
    reasons: dict[tuple[Kind, Kind], str] = {
        ("demonstration", "preference"): "a pair needs a worse answer too, and there is none",
        ("demonstration", "feedback"): "nothing says which answers were not wanted",
        ("demonstration", "prompt"): "raw text asks nothing",
        ("feedback", "preference"): "its answers are not paired: nothing says which are to be compared with each other",
        ("demonstration", "scored"): "no column says what an answer is worth",
        ("feedback", "scored"): "yes and no are no scores",
        ("ranking", "feedback"): "nothing says from which score on an answer is a good one",
        ("prompt", "demonstration"): "there is no answer to learn, only what one is checked against",
    }
    reason = reasons.get((found, wants), "one cannot honestly be made from the other")
    instead = f"Give data with the columns {COLUMNS[wants]}"
    if (found, wants) == ("prompt", "demonstration"):
        instead += "; data.columns={question: prompt, answer: ground_truth} learns the bare answers"
    if (found, wants) == ("feedback", "scored"):
        instead += "; recipe=reward reward.learn=labels learns from yes and no"
    if (found, wants) == ("feedback", "preference"):
        instead += "; recipe=kto learns from single answers that were wanted or not"
    return Fault(
        where=where,
        what=f"the rows are {said or CALLED[found]}, the stage wants {CALLED[wants]}, and {reason}",
        instead=f"{instead}.",
    )


def _one(prompt: Said, answer: Said, where: str, tools: list[dict[str, Any]] | None = None) -> Demonstration:
    """A prompt and its answer as a demonstration."""
    if isinstance(prompt, str):
        return Completion(prompt, cast(str, answer), where)
    messages, weights = joined(prompt, cast("list[Message]", answer))
    return Conversation(messages, where, None, tools, None if weights is None else tuple(weights))


def _chosen(pair: Preference, notes: Counter[str]) -> list[Document]:
    return [_one(pair.prompt, pair.chosen, pair.where, pair.tools)]


def _unpaired(pair: Preference, notes: Counter[str]) -> list[Document]:
    notes.update([NO_TOOLS] if pair.tools else [])
    return [
        Feedback(pair.prompt, pair.chosen, True, pair.where),
        Feedback(pair.prompt, pair.rejected, False, pair.where),
    ]


def _of_two(pair: Preference, notes: Counter[str]) -> list[Document]:
    notes.update([NO_TOOLS] if pair.tools else [])
    high, low = pair.chosen_score, pair.rejected_score
    scores = (high, low) if high is not None and low is not None and high > low else None
    return [Ranking(pair.prompt, (pair.chosen, pair.rejected), pair.where, scores)]


def _rated_pair(pair: Preference, notes: Counter[str]) -> list[Document]:
    if pair.chosen_score is None or pair.rejected_score is None:
        what = "one of its answers has no score, and the stage learns scores"
        raise bad(pair.where, what, "Give both, or leave such rows out with data.on_error=skip.")
    notes.update([NO_TOOLS] if pair.tools else [])
    return [
        Scored(pair.prompt, pair.chosen, pair.chosen_score, pair.where),
        Scored(pair.prompt, pair.rejected, pair.rejected_score, pair.where),
    ]


def _rated(ranking: Ranking, notes: Counter[str]) -> list[Document]:
    if ranking.scores is None:
        raise bad(ranking.where, "its answers have ranks and no scores, and the stage learns scores")
    return [
        Scored(ranking.prompt, answer, score, ranking.where)
        for answer, score in zip(ranking.answers, ranking.scores, strict=True)
    ]


def _extremes(ranking: Ranking, notes: Counter[str]) -> list[Document]:
    best, worst = (ranking.scores[0], ranking.scores[-1]) if ranking.scores else (None, None)
    if ranking.answers[0] == ranking.answers[-1]:
        raise bad(ranking.where, "the best and the worst answer say the same, so there is nothing to prefer")
    return [Preference(ranking.prompt, ranking.answers[0], ranking.answers[-1], ranking.where, best, worst)]


def _best(ranking: Ranking, notes: Counter[str]) -> list[Document]:
    return [_one(ranking.prompt, ranking.answers[0], ranking.where)]


def _wanted(feedback: Feedback, notes: Counter[str]) -> list[Document]:
    if not feedback.label:
        notes[UNWANTED] += 1
        return []
    return [_one(feedback.prompt, feedback.completion, feedback.where)]


def _asks(judged: Preference | Feedback | Scored | Ranking, notes: Counter[str]) -> list[Document]:
    return [Prompt(judged.prompt, judged.where, None, judged.tools if isinstance(judged, Preference) else None)]


def _question(document: Demonstration, notes: Counter[str]) -> list[Document]:
    """What stands before the last answer; the reference comes along where it can be checked."""
    assert not isinstance(document, Text)  # raw text was refused by its columns
    answer, certain = checkable(document)
    key = answer if certain else None
    if isinstance(document, Completion):
        return [Prompt(document.prompt, document.where, key)]
    messages = document.messages
    end = len(messages)
    if messages[-1]["role"] not in OPEN:
        while end and messages[end - 1]["role"] not in OPEN:
            end -= 1
    else:
        key = document.answer
    if not end:
        raise bad(document.where, "asks nothing: no turn is the user's", "Leave such rows out with data.on_error=skip.")
    return [Prompt(messages[:end], document.where, key, document.tools)]


def _unlabelled(labelled: Labelled, notes: Counter[str]) -> list[Document]:
    return [Text(labelled.text, labelled.where)]


CONVERSIONS: dict[tuple[Kind, Kind], tuple[Conversion, str]] = {
    ("preference", "demonstration"): (_chosen, "the chosen answers"),
    ("preference", "feedback"): (_unpaired, "two rows of unpaired feedback each, chosen and rejected"),
    ("preference", "ranking"): (_of_two, "two ranked answers each"),
    ("preference", "scored"): (_rated_pair, "two answers with a score each"),
    ("ranking", "scored"): (_rated, "answers with a score each"),
    ("preference", "prompt"): (_asks, "the prompts"),
    ("ranking", "preference"): (_extremes, "pairs, the best answer against the worst"),
    ("ranking", "demonstration"): (_best, "the best answers"),
    ("ranking", "prompt"): (_asks, "the prompts"),
    ("feedback", "demonstration"): (_wanted, "the answers that were wanted"),
    ("scored", "prompt"): (_asks, "the prompts"),
    ("feedback", "prompt"): (_asks, "the prompts"),
    ("demonstration", "prompt"): (_question, "the prompts, up to the last answer"),
    ("labelled", "demonstration"): (_unlabelled, "raw text, the label ignored"),
}
