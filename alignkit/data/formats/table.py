"""Which format the columns are: the table of all formats, and the one that a first row has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from alignkit.data.formats.cells import bad
from alignkit.data.formats.comparisons import (
    find_feedback,
    find_preference,
    read_feedback,
    read_preference,
)
from alignkit.data.formats.demonstrations import (
    find_alpaca,
    find_completion,
    find_messages,
    find_question,
    find_text,
    read_alpaca,
    read_completion,
    read_conversation,
    read_question,
    read_text,
)
from alignkit.data.formats.kinds import COLUMNS
from alignkit.data.formats.prompts import find_labelled, find_prompt, read_labelled, read_prompt
from alignkit.data.formats.ranking import find_ranking, read_ranking
from alignkit.data.formats.scored import find_scored, read_scored
from alignkit.data.formats.shapes import Shape
from alignkit.data.rows import Document, Kind, Row
from alignkit.errors import Fault, RequestError


@dataclass(frozen=True, slots=True)
class Entry:
    """One format: the kind of its documents, its columns for people, how it is found and how a row is read."""

    kind: Kind
    columns: str
    what: str
    find: Callable[[Mapping[str, Any]], Shape | None]
    read: Callable[[Row, Shape, Counter[str]], Document]


FORMATS: dict[str, Entry] = {
    "preference": Entry(
        "preference",
        "chosen, rejected [prompt, system, tools, chosen_score, rejected_score, margin]",
        "pairs: messages, plain text, or Anthropic's Human/Assistant text; without prompt: what both begin with",
        find_preference,
        read_preference,
    ),
    "ranking": Entry(
        "ranking",
        "prompt, answers | responses | completions, scores | ranks [system]",
        "a list of answers to each prompt, with scores (the higher the better) or ranks (1 is the best)",
        find_ranking,
        read_ranking,
    ),
    "feedback": Entry(
        "feedback",
        "prompt, completion, label [system], or messages and label",
        "one answer, and whether it was wanted: true or false, 1 or 0",
        find_feedback,
        read_feedback,
    ),
    "scored": Entry(
        "scored",
        "prompt, completion | response | output | answer, score | rating | reward [system], or messages and score",
        "one answer and a number, the higher the better",
        find_scored,
        read_scored,
    ),
    "messages": Entry(
        "demonstration",
        "messages | conversations [system, tools, answer]",
        "chats, OpenAI's spelling: role, content, tool_calls, reasoning_content; weight or train per message",
        find_messages,
        read_conversation,
    ),
    "sharegpt": Entry(
        "demonstration",
        "conversations | messages [system, tools, answer]",
        "chats, ShareGPT's spelling: from (human, gpt, system, function_call, observation) and value",
        find_messages,
        read_conversation,
    ),
    "alpaca": Entry(
        "demonstration",
        "instruction, output | response [input | context, system, history, answer]",
        "instructions and answers",
        find_alpaca,
        read_alpaca,
    ),
    "prompt-completion": Entry(
        "demonstration",
        "prompt, completion [answer]",
        "plain text without a template, or messages; only the completion is learned",
        find_completion,
        read_completion,
    ),
    "question-answer": Entry(
        "demonstration",
        "prompt | question | query | problem, response | solution | answer [system, answer]",
        "questions put to the assistant, with its answers",
        find_question,
        read_question,
    ),
    "prompt": Entry(
        "prompt",
        "prompt | question | query | problem [answer | ground_truth | solution, system, tools]",
        "prompts, with an answer that a program can check where there is one",
        find_prompt,
        read_prompt,
    ),
    "labelled": Entry(
        "labelled",
        "text | sentence | review, label | label_text | class",
        "texts and their class",
        find_labelled,
        read_labelled,
    ),
    "text": Entry("demonstration", "text | content", "raw text, every token of it", find_text, read_text),
}
"""Every format, in the order in which they are tried: the more particular before the more general."""

_NAMES = """
    messages conversations conversation system tools functions answer instruction input context output response history
    prompt completion question query problem solution text content chosen rejected chosen_score rejected_score margin
    label score answers responses completions scores ranks ground_truth final_answer
"""
NAMES = frozenset(_NAMES.split())
"""Columns that data.columns and data.map may make."""


def formats_table() -> list[tuple[str, str, str, str]]:
    """(name, kind, columns, what it is) of every format, for `alignkit data formats`; `|` parts other names of a
    column, brackets hold columns that may be there."""
    return [(name, entry.kind, entry.columns, entry.what) for name, entry in FORMATS.items()]


def format_fault(name: str | None, where: str = "data.format") -> Fault | None:
    """The fault of a format that does not exist."""
    if name is None or name in FORMATS:
        return None
    near = get_close_matches(name, FORMATS, n=1, cutoff=0.5)
    lead = f"Did you mean `{near[0]}`? " if near else ""
    return Fault(where=where, what=f"there is no format `{name}`", instead=f"{lead}Formats: {', '.join(FORMATS)}.")


def recognise_columns(row: Row, wants: Kind | None = None, forced: str | None = None) -> tuple[str, Shape]:
    """The format of a data set and its columns, from its first row.

    ``wants`` decides where a row can be two things: `question` and `answer` are a prompt to answer and check, or an
    answer to imitate. ``forced``: read as this one. Raises RequestError: what was found, and which columns would do.
    """
    fault = format_fault(forced)
    if fault is not None:
        raise RequestError(fault)
    if forced is not None:
        shape = FORMATS[forced].find(row.values)
        if shape is None:
            columns = ", ".join(row.values) or "(none)"
            what = f"data.format={forced} reads the columns {FORMATS[forced].columns}, and the columns are {columns}"
            raise bad(row.where, what, "Name them with data.columns, or leave data.format out.")
        return forced, shape
    for name in _order(wants):
        shape = FORMATS[name].find(row.values)
        if shape is not None:
            return ("sharegpt" if shape.name == "ShareGPT" else name), shape
    raise bad(row.where, *_no_format(list(row.values), wants))


def _order(wants: Kind | None) -> list[str]:
    names = list(FORMATS)
    if wants != "scored":  # a number beside an answer says nothing to who imitates it
        names.remove("scored")
    if wants == "prompt":
        names.remove("prompt")
        names.insert(names.index("prompt-completion") + 1, "prompt")
    if wants == "demonstration":
        names.remove("text")
        names.insert(names.index("labelled"), "text")
    return names


def _no_format(columns: list[str], wants: Kind | None) -> tuple[str, str]:
    found = f"the columns are {', '.join(columns)}" if columns else "the row has no columns"
    near = {
        column: match[0]
        for column in columns
        if column not in NAMES and (match := get_close_matches(column.lower(), NAMES, n=1, cutoff=0.75))
    }
    hint = "".join(
        f" Rename `{column}` to `{name}`, or data.columns={{{name}: {column}}}?" for column, name in near.items()
    )
    return (
        f"{found}, and that is no format known here",
        f"Columns that would do: {COLUMNS[wants or 'demonstration']}.{hint}",
    )
