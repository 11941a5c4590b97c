"""Rows that judge: preference pairs and unpaired feedback."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from alignkit.data.formats.cells import as_bool, bad, cell, number, shown
from alignkit.data.formats.messages import read_turns
from alignkit.data.formats.order import CUT, check_answer, check_order, check_prompt
from alignkit.data.formats.shapes import (
    ASKS,
    CHATS,
    Shape,
    asked,
    first_of,
    message_parts,
    plain_text,
    tools_of,
    transcript_parts,
    turns,
    with_system,
)
from alignkit.data.rows import Feedback, Message, Preference, Row, Said
from alignkit.errors import RequestError

Values = Mapping[str, Any]

PAIRS = (("chosen", "rejected"), ("chosen_response", "rejected_response"), ("response_j", "response_k"))
"""The better and the worse answer, as data sets call them (argilla's, StackExchange's)."""
SCORES = (
    ("chosen_score", "rejected_score"),
    ("score_chosen", "score_rejected"),
    ("chosen_rating", "rejected_rating"),
    ("chosen_avg_rating", "rejected_avg_rating"),
    ("chosen_reward", "rejected_reward"),
)
LABELS = ("label", "kto_tag")
_LABEL = "Write true for an answer that was wanted and false for one that was not."


def asking(values: Values, *, chats: bool = True) -> dict[str, str]:
    """The parts that ask: a prompt (with an input, a system prompt, tools), where the row has one."""
    column = first_of(values, (*ASKS, "instruction", *(CHATS if chats else ()), "input"))
    parts = {} if column is None else {"prompt": column}
    if column == "instruction" and "input" in values:
        parts["input"] = "input"
    if "system" in values:
        parts["system"] = "system"
    tools = first_of(values, ("tools", "functions"))
    return parts if tools is None else {**parts, "tools": tools}


def is_plain(parts: Mapping[str, str], chat: frozenset[str]) -> bool:
    """Whether there is no template: `prompt` as text, and nothing that only a conversation has. A question, by that
    name, is put to an assistant."""
    return not chat and parts.get("prompt", "prompt") == "prompt" and "system" not in parts and "tools" not in parts


def find_preference(values: Values) -> Shape | None:
    """Two answers, the better named as such; the prompt in a column, or as what both begin with."""
    pair = next((pair for pair in PAIRS if pair[0] in values and pair[1] in values), None)
    if pair is None:
        return None
    parts = asking(values)
    both = {"chosen": pair[0], "rejected": pair[1]}
    heads = {**({"prompt": parts["prompt"]} if "prompt" in parts else {}), **both}
    lists, transcripts = message_parts(values, heads), transcript_parts(values, heads)
    whole = "chosen" in transcripts or ("chosen" in lists and _begins(values[pair[0]], pair[0]) != "assistant")
    if whole and parts.get("prompt") in CHATS:
        del parts["prompt"]  # UltraFeedback's `messages`: the chosen conversation once more
    scores = next((names for names in SCORES if names[0] in values or names[1] in values), ())
    judged = {
        part: name for part, name in zip(("chosen_score", "rejected_score"), scores, strict=False) if name in values
    }
    if not scores and "margin" in values:
        judged = {"margin": "margin"}
    grouped = {"group": "subset"} if isinstance(values.get("subset"), str) else {}
    parts = {**parts, **both, **judged, **grouped}
    name = "preference pairs"
    if whole or "prompt" not in parts:
        name += ", the prompt being what both begin with"
    if is_plain(parts, lists | transcripts):
        return Shape(f"{name}, without a template", parts, plain=True)
    return Shape(name, parts, lists, transcripts=transcripts)


def _begins(value: Any, column: str) -> str:
    """The role that a column of messages begins with; what is wrong with them is said when the row is read."""
    try:
        return str(read_turns(value, column, "", Counter()).messages[0]["role"])
    except RequestError:
        return ""


def read_preference(row: Row, shape: Shape, notes: Counter[str]) -> Preference:
    """Raises RequestError for what no pair can be learned from: no difference, an empty answer, no common prompt."""
    one, two = shape.column("chosen"), shape.column("rejected")
    prompt: Said
    chosen: Said
    rejected: Said
    if shape.plain:
        chosen, rejected = plain_text(row, shape, "chosen"), plain_text(row, shape, "rejected")
        _differ(chosen, rejected, row, one, two)
        if "prompt" in shape.parts:
            prompt = plain_text(row, shape, "prompt")
        else:
            prompt, chosen, rejected = _split_texts(chosen, rejected)
    else:
        chosen = turns(row, shape, "chosen", "assistant", notes).messages
        rejected = turns(row, shape, "rejected", "assistant", notes).messages
        _differ(chosen, rejected, row, one, two)
        prompt, chosen, rejected = _conversations(row, shape, chosen, rejected, notes)
    high, low = number(row, shape.parts.get("chosen_score")), number(row, shape.parts.get("rejected_score"))
    if "margin" in shape.parts:
        margin = number(row, "margin")
        high, low = margin, None if margin is None else 0.0
    group = row.values.get(shape.parts["group"]) if "group" in shape.parts else None
    named = None if group is None else str(group)
    return Preference(prompt, chosen, rejected, row.where, high, low, tools_of(row, shape), named)


def _conversations(
    row: Row, shape: Shape, chosen: list[Message], rejected: list[Message], notes: Counter[str]
) -> tuple[list[Message], list[Message], list[Message]]:
    """Prompt and both answers, the prompt taken from what both begin with where they begin before the answer."""
    prompt: list[Message] | None = None
    if "prompt" in shape.parts:
        prompt = prompt_of(row, shape, notes)
    if chosen[0]["role"] != "assistant" or rejected[0]["role"] != "assistant":
        shared, chosen, rejected = _split_turns(row, shape, chosen, rejected)
        if prompt is not None and not _same_turns(prompt, shared):
            notes["pairs whose prompt column differs from what both conversations begin with; the latter was used"] += 1
        prompt = shared
    elif prompt is None:
        what = "has no prompt: chosen and rejected begin with the answer"
        raise bad(row.where, what, "Add a column `prompt`, or write whole conversations.")
    check_prompt(prompt, row.where, shape.parts.get("prompt", shape.column("chosen")))
    _part_at_an_answer(row, shape, len(prompt), chosen, rejected)
    for part, answer in (("chosen", chosen), ("rejected", rejected)):
        check_order(prompt + answer, f"{row.where}, column `{shape.column(part)}`")
    ends = []
    for part, answer in (("chosen", chosen), ("rejected", rejected)):
        kept = list(answer)
        while kept and kept[-1]["role"] != "assistant":
            kept.pop()
        if len(kept) < len(answer):
            notes[CUT] += 1
        for message in kept:
            if message["role"] == "assistant":
                check_answer(message, f"{row.where}, column `{shape.column(part)}`")
        ends.append(kept)
    _differ(ends[0], ends[1], row, shape.column("chosen"), shape.column("rejected"))
    return with_system(row, shape, prompt), ends[0], ends[1]


def prompt_of(row: Row, shape: Shape, notes: Counter[str]) -> list[Message]:
    """The prompt's turns; a bare text is the user's."""
    if "input" in shape.parts:
        return [{"role": "user", "content": asked(row, shape)}]
    return turns(row, shape, "prompt", "user", notes).messages


def _same_turns(prompt: list[Message], shared: list[Message]) -> bool:
    """Whether a prompt column says what the conversations begin with: all their turns, or their last question."""
    said = [message["content"].strip() for message in prompt]
    return said == [message["content"].strip() for message in shared][-len(said) :]


def _split_turns(
    row: Row, shape: Shape, chosen: list[Message], rejected: list[Message]
) -> tuple[list[Message], list[Message], list[Message]]:
    """What both begin with, up to the last turn before an answer in which they differ."""
    at = _alike(chosen, rejected)
    while at and (chosen[at - 1]["role"] == "assistant" or not (chosen[at:] and rejected[at:])):
        at -= 1
    for part, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer[at:] or answer[at]["role"] != "assistant":
            raise _parted(row, shape, part, min(at, len(answer) - 1))
    return chosen[:at], chosen[at:], rejected[at:]


def _part_at_an_answer(row: Row, shape: Shape, before: int, chosen: list[Message], rejected: list[Message]) -> None:
    """Answers of several turns must part in a turn of the assistant's: where they part in what it was asked, two
    prompts were answered. ``before``: turns of the prompt."""
    at = _alike(chosen, rejected)
    if at < min(len(chosen), len(rejected)) and chosen[at]["role"] != "assistant":
        whole = "prompt" not in shape.parts
        raise _parted(row, shape, "chosen", at + (before if whole else 0))


def _alike(chosen: list[Message], rejected: list[Message]) -> int:
    """Turns that both begin with."""
    pairs = enumerate(zip(chosen, rejected, strict=False))
    return next((at for at, (one, two) in pairs if one != two), min(len(chosen), len(rejected)))


def _parted(row: Row, shape: Shape, part: str, at: int) -> Exception:
    return bad(
        f"{row.where}, turn {at + 1} of `{shape.column(part)}`",
        "chosen and rejected part before an answer, so there is no prompt that both answer",
        "Both must begin with the same turns, up to the assistant's.",
    )


def _split_texts(chosen: str, rejected: str) -> tuple[str, str, str]:
    """What both texts begin with, up to the last line end in it or the last word that both end; a space goes with the
    answers, as tokenizers have it."""
    shorter = min(len(chosen.rstrip()), len(rejected.rstrip()))
    at = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), shorter)
    at = min(at, shorter - 1)
    while at and not (chosen[at - 1] == "\n" or (chosen[at].isspace() and rejected[at].isspace())):
        at -= 1
    return chosen[:at], chosen[at:], rejected[at:]


def _differ(chosen: Said, rejected: Said, row: Row, one: str, two: str) -> None:
    if chosen == rejected:
        what = f"columns `{one}` and `{two}` say the same, so there is nothing to prefer"
        raise bad(row.where, what, "Leave such rows out with data.on_error=skip.")


def find_feedback(values: Values) -> Shape | None:
    """A prompt, one answer, and whether it was wanted."""
    label = first_of(values, LABELS)
    if label is None:
        return None
    chat = first_of(values, CHATS)
    if chat is not None and (label == "kto_tag" or isinstance(values[label], bool)):
        return Shape(
            "unpaired feedback",
            {**asking({k: v for k, v in values.items() if k == "system"}), "messages": chat, "label": label},
            frozenset({"messages"}),
        )
    reply = first_of(values, ("completion", "response", "output", "answer"))
    parts = asking(values, chats=False)
    value = values[label]
    certain = isinstance(value, bool) or label == "kto_tag" or (reply == "completion" and _may_be_flag(value))
    if reply is None or "prompt" not in parts or not certain:
        return None
    parts.pop("tools", None)
    heads = {"prompt": parts["prompt"], "completion": reply}
    lists, transcripts = message_parts(values, heads), transcript_parts(values, heads)
    parts = {**parts, "completion": reply, "label": label}
    if is_plain(parts, lists | transcripts):
        return Shape("unpaired feedback, without a template", parts, plain=True)
    return Shape("unpaired feedback", parts, lists, transcripts=transcripts)


def _may_be_flag(value: Any) -> bool:
    """Whether a label may be one of feedback. Null may: to take such rows for answers to imitate would teach the bad
    ones, should later rows say which these are."""
    return value is None or as_bool(value) is not None


def read_feedback(row: Row, shape: Shape, notes: Counter[str]) -> Feedback:
    column = shape.column("label")
    value = cell(row, column)
    label = as_bool(value)
    if label is None:
        raise bad(row.where, f"column `{column}` holds {shown(value)}, which is neither true nor false", _LABEL)
    if shape.plain:
        return Feedback(plain_text(row, shape, "prompt"), plain_text(row, shape, "completion"), label, row.where)
    if "messages" in shape.parts:
        messages = turns(row, shape, "messages", "user", notes).messages
        at = max((i for i, message in enumerate(messages) if message["role"] in ("user", "tool")), default=-1) + 1
        if messages[-1]["role"] != "assistant":
            raise bad(row.where, "has no answer to judge: the last turn is not the assistant's", "Add the answer.")
        prompt, answer = messages[:at], messages[at:]
    else:
        prompt = prompt_of(row, shape, notes)
        answer = turns(row, shape, "completion", "assistant", notes).messages
    check_exchange(row, prompt, answer, shape.parts.get("completion", shape.parts.get("messages", "")))
    return Feedback(with_system(row, shape, prompt), answer, label, row.where)


def check_exchange(row: Row, prompt: list[Message], answer: list[Message], column: str) -> None:
    """A prompt and one answer to it: in order, the answer the assistant's and not empty."""
    check_prompt(prompt, row.where, column)
    check_order(prompt + answer, row.where)
    if not answer or answer[-1]["role"] != "assistant":
        raise bad(row.where, f"column `{column}` does not end with the assistant's turn", "It must hold the answer.")
    for message in answer:
        if message["role"] == "assistant":
            check_answer(message, f"{row.where}, column `{column}`")
