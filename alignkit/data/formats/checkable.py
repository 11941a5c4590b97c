"""Which answers a program can compare: for exact match on held-out rows, and for rewards."""

from __future__ import annotations

import json

from alignkit.data.rows import Completion, Conversation, Document, Prompt


def checkable(document: Document) -> tuple[str | None, bool]:
    """The reference of a document (its `answer` column, else its last answer) and whether comparing with it makes
    sense: there was an `answer` column, or the answer is a JSON object."""
    if isinstance(document, Prompt):
        return document.answer, document.answer is not None
    if not isinstance(document, Completion | Conversation):
        return None, False
    if document.answer is not None:
        return document.answer, True
    if isinstance(document, Completion):
        last = document.completion
    else:
        turns = [message["content"] for message in document.messages if message["role"] == "assistant"]
        if not turns:
            return None, False
        last = turns[-1]
    return last, _is_json_object(last)


def looks_checkable(answer: str) -> bool:
    """Whether an answer can be compared by a program: a JSON object, `#### 42`, or at most three words."""
    return _is_json_object(answer) or "####" in answer or len(answer.split()) <= 3


def _is_json_object(text: str) -> bool:
    if not text.lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
