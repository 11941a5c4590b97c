"""What a chat template writes after an answer's end of turn, as tokens.

Rows to learn from end with the end of turn: nothing after it is ever generated. But whoever scores a conversation lays
it out whole, as `apply_chat_template` does, and a reward is read at its last token. So a reward model must learn from
rows that end as the template's texts end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from alignkit.data.branches import Branch, Branched
from alignkit.data.encoding.rendering import Renderer
from alignkit.data.encoding.templating import apply_template
from alignkit.data.encoding.tokenizing import Encoder
from alignkit.data.rows import Conversation

PROBES = ("b", "Of course: 12 apples.")


@dataclass(frozen=True)
class Closing:
    """Row to whole conversation: of a row that ends in ``end``, the last ``drop`` tokens go and ``add`` come."""

    end: int
    drop: int
    add: tuple[int, ...]

    def close(self, row: Branched) -> Branched:
        """The row with each answer as the template ends it. Plain text and answers that were cut stay as they are."""
        if row.plain or not (self.drop or self.add):
            return row
        return replace(row, branches=tuple(self._closed(branch) for branch in row.branches))

    def _closed(self, branch: Branch) -> Branch:
        if branch.ids[-1:] != [self.end]:
            return branch
        kept = len(branch.ids) - self.drop
        return Branch([*branch.ids[:kept], *self.add], [*branch.scored[:kept], *[False] * len(self.add)])


def closing(tokenizer: Any) -> Closing | None:
    """How the tokenizer's template ends a conversation; None where it has no template, or ends each in another way."""
    if not tokenizer.chat_template:
        return None
    found = {_of(tokenizer, said) for said in PROBES}
    return found.pop() if len(found) == 1 else None


def _of(tokenizer: Any, said: str) -> Closing | None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": said}]
    row = Renderer(tokenizer, "last", outlines=False).render([Conversation(messages, "model")])[0][0]
    ids = Encoder(tokenizer, short=False).encode([row])[0].input_ids
    whole = whole_ids(tokenizer, messages)
    same = next((at for at, (a, b) in enumerate(zip(ids, whole, strict=False)) if a != b), min(len(ids), len(whole)))
    if len(ids) - same > 1:  # more than an end token that the template does not write
        return None
    return Closing(end=ids[-1], drop=len(ids) - same, add=tuple(whole[same:]))


def whole_ids(tokenizer: Any, messages: Sequence[dict[str, Any]], tools: Any = None) -> list[int]:
    """A conversation as the template writes it, as tokens."""
    text = apply_template(tokenizer, [list(messages)], False, [tools] if tools else None)[0]
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
