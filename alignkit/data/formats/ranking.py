"""Rows that rank: a prompt and a list of answers, with scores or ranks (UltraFeedback's and Nectar's spellings too)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from alignkit.data.formats.cells import as_number, bad, cell, kind_of, shown
from alignkit.data.formats.comparisons import asking, check_exchange, is_plain, prompt_of
from alignkit.data.formats.messages import read_turns
from alignkit.data.formats.shapes import (
    Shape,
    first_of,
    message_parts,
    plain_text,
    transcript_parts,
    with_system,
)
from alignkit.data.rows import Ranking, Row, Said

LISTS = ("answers", "responses", "completions", "candidates")
ORDERS = ("scores", "ranks", "ratings", "rewards", "rank", "ranking")
TEXTS = ("answer", "response", "completion", "text", "content")
VALUES = ("score", "overall_score", "rating", "reward", "rank")


def find_ranking(values: Mapping[str, Any]) -> Shape | None:
    """A prompt and a list of answers, with ranks or scores beside it or in it."""
    column = next((name for name in LISTS if isinstance(values.get(name), list)), None)
    parts = asking(values)
    if column is None or "prompt" not in parts:
        return None
    order = first_of(values, ORDERS)
    if order is None and not _inner_order(values[column]):
        return None
    parts = {**parts, "answers": column, **({} if order is None else {"order": order})}
    heads = {"prompt": parts["prompt"]}
    lists, transcripts = message_parts(values, heads), transcript_parts(values, heads)
    inner = any(isinstance(answer, list) for answer in values[column])
    parts.pop("tools", None)
    if not inner and is_plain(parts, lists | transcripts):
        return Shape("ranked answers, without a template", parts, plain=True)
    return Shape("ranked answers", parts, lists, transcripts=transcripts)


def _inner_order(answers: list[Any]) -> str | None:
    """The key by which answers that are objects are ordered."""
    return first_of(answers[0], VALUES) if answers and isinstance(answers[0], Mapping) else None


def read_ranking(row: Row, shape: Shape, notes: Counter[str]) -> Ranking:
    """Raises RequestError where nothing says which answer is best, or there are fewer than two."""
    column = shape.column("answers")
    given = cell(row, column)
    if not isinstance(given, list) or len(given) < 2:
        found = f"{len(given)} answers" if isinstance(given, list) else kind_of(given)
        raise bad(row.where, f"column `{column}` holds {found}, and ranking takes two or more", "Remove the row.")
    prompt: Said
    prompt = plain_text(row, shape, "prompt") if shape.plain else prompt_of(row, shape, notes)
    answers = [
        _answer(row, shape, answer, f"{row.where}, item {i} of `{column}`", prompt, notes)
        for i, answer in enumerate(given, 1)
    ]
    worth, scored = _order(row, shape, given)
    best = sorted(range(len(answers)), key=lambda i: -worth[i])
    if not shape.plain:
        assert isinstance(prompt, list)
        prompt = with_system(row, shape, prompt)
    scores = tuple(worth[i] for i in best) if scored else None
    return Ranking(prompt, tuple(answers[i] for i in best), row.where, scores)


def _answer(row: Row, shape: Shape, answer: Any, where: str, prompt: Said, notes: Counter[str]) -> Said:
    """One of the answers: text, messages, or an object with the text and more."""
    if isinstance(answer, Mapping) and "role" not in answer and "from" not in answer:
        key = first_of(answer, TEXTS)
        if key is None:
            raise bad(where, f"has the keys {', '.join(map(str, answer))}", f"It needs one of {', '.join(TEXTS)}.")
        answer = answer[key]
    if isinstance(answer, str):
        if not answer or answer.isspace():
            raise bad(where, "is an empty answer", "Remove it.")
        if shape.plain:
            return answer
        answer = [{"role": "assistant", "content": answer.strip() if shape.transcripts else answer}]
    if shape.plain or not isinstance(answer, list | Mapping):
        raise bad(where, f"is {kind_of(answer)}, and must be text as in the first row", "Give all answers one form.")
    assert isinstance(prompt, list)
    messages = read_turns(answer, shape.column("answers"), where, notes).messages
    check_exchange(Row({}, where), prompt, messages, shape.column("answers"))
    return messages


def _order(row: Row, shape: Shape, given: list[Any]) -> tuple[list[float], bool]:
    """A number for each answer, the higher the better, and whether these are scores (ranks count from the best)."""
    column = shape.parts.get("order")
    if column is not None:
        found, name = cell(row, column), column
    else:
        key = _inner_order(given)
        if key is None:
            what = "nothing says which answer is best"
            raise bad(row.where, what, "Add a column `scores` (the higher the better) or `ranks` (1 is the best).")
        found, name = [answer.get(key) if isinstance(answer, Mapping) else None for answer in given], key
    if not isinstance(found, list) or len(found) != len(given):
        count = f"{len(found)} values" if isinstance(found, list) else kind_of(found)
        raise bad(row.where, f"`{name}` holds {count} for {len(given)} answers", "Write one number for each answer.")
    numbers = []
    for value in found:
        worth = as_number(value)
        if worth is None:
            raise bad(row.where, f"`{name}` holds {shown(value)}, and must hold numbers", "Write one for each answer.")
        numbers.append(worth)
    if len(set(numbers)) == 1:
        raise bad(row.where, f"`{name}` puts all answers level, so there is no best", "Remove the row.")
    ranks = name in ("ranks", "rank", "ranking")
    return ([-rank for rank in numbers] if ranks else numbers), not ranks
