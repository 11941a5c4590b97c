"""Anthropic's text form of a conversation: "\\n\\nHuman: …\\n\\nAssistant: …" (hh-rlhf; Bai et al. 2022)."""

from __future__ import annotations

import re

from alignkit.data.formats.cells import bad, shown
from alignkit.data.rows import Message

_MARK = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant|System):")
_ROLES = {"Human": "user", "Assistant": "assistant", "System": "system"}


def is_transcript(value: object) -> bool:
    """Whether a text is such a conversation: it begins with a turn and holds one of the assistant."""
    return isinstance(value, str) and value.lstrip().startswith(("Human:", "System:")) and "\n\nAssistant:" in value


def read_transcript(text: str, column: str, where: str) -> list[Message]:
    """The turns of a transcript, white space around them taken off. An open "Assistant:" at the end is an empty answer.

    Raises RequestError where something stands before the first turn, or none is there.
    """
    marks = list(_MARK.finditer(text))
    if not marks or marks[0].start() != 0:
        raise bad(
            where,
            f"column `{column}` does not begin with `Human:` as the first row's does: {shown(text)}",
            "Write every turn as a blank line, then Human: or Assistant:, then the text.",
        )
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [
        {"role": _ROLES[mark[1]], "content": text[mark.end() : end].strip()}
        for mark, end in zip(marks, ends, strict=True)
    ]
