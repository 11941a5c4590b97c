"""Rows of tokens that would teach the wrong thing, found before any weight is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignkit.data.encoding.rendered import TrainOn
from alignkit.data.encoding.templating import apply_template, special_ids
from alignkit.data.rows import UNTRAINED
from alignkit.errors import Fault

CLOSING = 4
"""Tokens at the end of a trained stretch among which its end of turn must be: after it stands a line break at most."""

PROBE = [{"role": "user", "content": "a"}]


class Verifier:
    """Checks rows that one tokenizer made; what it compares with is looked up once."""

    def __init__(self, tokenizer: Any, train_on: TrainOn = "assistant") -> None:
        self.tokenizer = tokenizer
        self.bos: int | None = tokenizer.bos_token_id
        self.ends = special_ids(tokenizer)
        self.every = train_on == "all"
        self.opener = None if self.every else opener(tokenizer)

    def fault(self, ids: Sequence[int], labels: Sequence[int], where: str, raw_text: bool) -> Fault | None:
        """What is wrong with a row, or None. ``ids``, ``labels``: as in Encoded, both (T,).

        ``raw_text``: the row has no answer, so no end of turn is looked for (a cut text has none).
        """
        return self.fault_of_mask(ids, bytes(label != UNTRAINED for label in labels), where, raw_text)

    def fault_of_mask(self, ids: Sequence[int], mask: bytes, where: str, raw_text: bool) -> Fault | None:
        """The same for packed rows. ``mask``: one byte per token, 1 where it is trained and 0 elsewhere."""
        if len(ids) > 1 and ids[0] == self.bos and ids[1] == self.bos:
            return Fault(
                where=where,
                what=f"the row begins with {self._name(ids[0])} twice (the tokenizer or its template writes it, and "
                "the text has it too)",
                instead="Take it out of the text.",
            )
        start = mask.find(1)
        if start < 0:
            return Fault(
                where=where,
                what="no token of the row carries loss, so nothing could be learned from it",
                instead="Give it an answer (an assistant turn after a question) of a weight above 0, or leave it out.",
            )
        while not raw_text and start >= 0:
            begin, end = start, mask.find(0, start)
            end = len(mask) if end < 0 else end
            start = mask.find(1, end)
            if self.every and start >= 0:  # what is trained around answers ends anywhere, only the row's end counts
                continue
            found = self._stretch(ids, begin, end, where)
            if found is not None:
                return found
        return None

    def _stretch(self, ids: Sequence[int], start: int, end: int, where: str) -> Fault | None:
        """What is wrong with one answer: the tokens [start, end), all trained."""
        ends = self.ends
        if ids[end - 1] not in ends and not any(ids[at] in ends for at in range(max(start, end - CLOSING), end)):
            return Fault(
                where=where,
                what=f"an answer's end is not trained (it ends with {self._name(ids[end - 1])}), so the model would "
                "not learn where to stop",
                instead="Check the model's chat template and its eos token with `alignkit data preview`.",
            )
        if self.opener is not None and self.opener in ids[start:end]:
            return Fault(
                where=where,
                what=f"the generation prompt's {self._name(self.opener)} is among the trained tokens, so the model "
                "would learn to write it",
                instead="Take it out of the answer's text; the template writes it.",
            )
        return None

    def _name(self, token: int) -> str:
        return f"`{self.tokenizer.convert_ids_to_tokens(int(token))}`"


def opener(tokenizer: Any) -> int | None:
    """The special token that opens an answer in the template's generation prompt, which is never to be learned.

    None where there is no such token, or where the template refuses a single question.
    """
    if not tokenizer.chat_template:
        return None
    try:
        [asked] = apply_template(tokenizer, [PROBE], True)
        [said] = apply_template(tokenizer, [PROBE], False)
    except Exception:  # a template is the model author's program: it may raise anything
        return None
    asked_ids, said_ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (asked, said))
    # Where both stop being the same: a template may end the second text with eos.
    pairs = zip(asked_ids, [*said_ids, *[None] * len(asked_ids)], strict=False)
    first = next((left for left, right in pairs if left != right), None)
    return int(first) if first in special_ids(tokenizer) and first != tokenizer.eos_token_id else None
