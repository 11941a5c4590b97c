"""Conversations become text turn by turn: the way that is right for every template.

For messages m_1..m_n and an answer m_i, what generation sees is ``template(m_1..m_{i-1}, generation prompt)`` and what
stands after the answer is ``template(m_1..m_i)``; the difference is the answer with its end of turn. So any template
works, without generation markers. A template that rewrites earlier turns (one that strips old reasoning, say) makes
one row per answer, each exactly as generation saw it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from alignkit.data.encoding.rendered import Rendered, TrainOn
from alignkit.data.encoding.templating import Tools, last_special, special_tokens, try_template
from alignkit.data.encoding.turns import (
    Ending,
    agreement,
    content,
    holds,
    lost_answer,
    lost_calls,
    lost_reasoning,
    rebuilt,
)
from alignkit.data.rows import Conversation, Message
from alignkit.errors import Fault

REWRITTEN = "conversations became one row per answer, because the template rewrites earlier turns"
NO_END = "conversations became one row per answer, because the template does not end a turn with a special token"
LONGEST_OPENING = 64
"""Characters of a generation prompt that an answer may happen to begin with."""
UNALIGNED = "answers do not begin as the template's generation prompt ends; they are trained from where both agree"
REBUILT = "answers were written after the generation prompt as a model says them, because the template drops reasoning"
NO_REASONING = "answers lost their reasoning, because the template writes none"
NO_TEXT = "messages lost the text beside their tool calls, because the template writes only the calls"
NO_CONTEXT = "messages of other roles than the assistant's do not stand in the text, because the template drops them"
DATED = "conversations carry the day they were rendered on, because the template writes it"
NO_TOOLS = "conversations lost their list of tools, because the template writes none"


class Incremental:
    """Renders conversations with one tokenizer; ``notes`` counts what a person should hear about."""

    def __init__(self, tokenizer: Any, train_on: TrainOn, notes: Counter[str]) -> None:
        self.tokenizer = tokenizer
        self.train_on = train_on
        self.notes = notes
        self.special = special_tokens(tokenizer)
        self.reasons = "</think>" in str(tokenizer.chat_template)
        self.dated = "strftime_now" in str(tokenizer.chat_template)
        self.offers = re.search(r"\btools\b", str(tokenizer.chat_template)) is not None
        self._ending: Ending | None = None

    def render(self, chats: Sequence[Conversation]) -> list[list[Rendered] | Fault]:
        """One list of texts for each conversation, or what is wrong with it. Two texts are rendered for each answer.

        Raises RequestError when there is no template.
        """
        turns = [answers(chat, self.train_on) for chat in chats]
        whole = [self.train_on == "all" and not weighted(chat) for chat in chats]
        asked: list[tuple[list[Message], Tools, str]] = []
        said: list[tuple[list[Message], Tools, str]] = []
        for chat, found, every in zip(chats, turns, whole, strict=True):
            if every:
                said += [(chat.messages, chat.tools, chat.where)] if found else []
                continue
            asked += [(chat.messages[:turn], chat.tools, chat.where) for turn in found]
            said += [(chat.messages[: turn + 1], chat.tools, chat.where) for turn in found]
        prompts = iter(try_template(self.tokenizer, asked, True))
        fulls = iter(try_template(self.tokenizer, said, False))
        done: list[list[Rendered] | Fault] = []
        for chat, found, every in zip(chats, turns, whole, strict=True):
            if every:
                done.append(self._all(chat, found[-1], next(fulls)) if found else [])
            else:
                texts = [(next(fulls), next(prompts)) for _ in found]
                done.append(self._turns(chat, found, texts))
        return done

    def _all(self, chat: Conversation, turn: int, text: str | Fault) -> list[Rendered] | Fault:
        if isinstance(text, Fault):
            return text
        ended = last_special(self.special, text) < len(text)
        text = text if ended else text.rstrip()
        self._note_context(chat, len(chat.messages), text)
        return [Rendered(text, None, chat.where, eos=not ended, document=chat, turn=turn)]

    def _turns(
        self, chat: Conversation, turns: Sequence[int], texts: Sequence[tuple[str | Fault, str | Fault]]
    ) -> list[Rendered] | Fault:
        """One row with every answer's span, or one row per answer where the template does not allow that."""
        rows: list[Rendered] = []
        for turn, (full, prompt) in zip(turns, texts, strict=True):
            if isinstance(full, Fault):
                return full
            if isinstance(prompt, Fault):
                return prompt
            row = self._turn(chat, turn, full, prompt)
            if isinstance(row, Fault):
                return row
            rows.append(row)
        if not rows:
            return rows
        self._note_context(chat, rows[-1].turn, rows[-1].text)
        return self._joined(chat, rows)

    def _joined(self, chat: Conversation, rows: list[Rendered]) -> list[Rendered] | Fault:
        """One row per answer made into one row with all spans, where the template allows that."""
        apart = ""
        if any(row.eos for row in rows[:-1]):
            apart = NO_END
        elif not all(rows[-1].text.startswith(row.text) for row in rows[:-1]):
            apart = REWRITTEN
        if apart and self.train_on == "all":
            return Fault(
                where=chat.where,
                what="the row weighs its messages, data.train_on is all, and the model's template would make one row "
                "of each answer, so that the questions would be trained several times",
                instead="Write data.train_on=assistant, or leave the weights out.",
            )
        if apart:
            self.notes[apart] += 1
            for row in rows if weighted(chat) else ():
                _weigh(row, chat, [row.turn], between=False)
            return rows
        whole = rows[-1]
        whole.spans = [span for row in rows for span in row.spans or []]
        if weighted(chat):
            _weigh(whole, chat, [row.turn for row in rows], between=self.train_on == "all")
        return [whole]

    def _turn(self, chat: Conversation, turn: int, full: str, prompt: str) -> Rendered | Fault:
        """The text up to an answer, with the answer's span."""
        message = chat.messages[turn]
        start, aligned = len(prompt), full.startswith(prompt)
        if not aligned:
            start = self._begins(full, agreement(full, prompt), content(message).strip())
        end, ended = self.ending.find(full, start, message)
        region = full[start:end]
        answer, thought = lost_answer(message, region), lost_reasoning(message, region)
        if answer or thought or not aligned:
            said = rebuilt(prompt, message)
            if said is not None and (answer or not aligned or self.reasons):
                closing = full[last_special(self.special, full[:end]) : end] if ended else ""
                full, start, aligned = prompt + said + closing, len(prompt), True
                end = len(full)
                self.notes[REBUILT] += 1
            elif answer and message.get("tool_calls"):
                self.notes[NO_TEXT] += 1
            elif answer:
                return Fault(
                    where=chat.where,
                    what=f"the model's chat template leaves the answer in message {turn + 1} out of the text, or "
                    "changes it, so it could not be learned",
                    instead="Look at the row with `alignkit data preview`, or install another template with "
                    "data.template.",
                )
            elif thought:
                self.notes[NO_REASONING] += 1
        if calls := lost_calls(message, full[start:end]):
            return Fault(
                where=chat.where,
                what=f"message {turn + 1} calls {calls[0]}, and the model's chat template writes no tool calls",
                instead="Take a model whose template does, or install one with data.template.",
            )
        if not aligned:
            self.notes[UNALIGNED] += 1
        return Rendered(full[:end], [(start, end)], chat.where, eos=not ended, document=chat, turn=turn)

    def _begins(self, full: str, agreed: int, body: str) -> int:
        """Where an answer begins whose text agrees with the generation prompt up to ``agreed``. It may begin before
        that: an answer `<` agrees with a prompt that goes on with `<think>`."""
        for at in range(max(0, agreed - min(len(body), LONGEST_OPENING)), agreed):
            if full.startswith(body, at):
                rest = full[at + len(body) :].lstrip()
                if not rest or self.special.match(rest):
                    return at
        return agreed

    @property
    def ending(self) -> Ending:
        """Where answers end; looked for when the first conversation comes."""
        if self._ending is None:
            self._ending = Ending(self.tokenizer, self.special)
        return self._ending

    def _note_context(self, chat: Conversation, upto: int, text: str) -> None:
        """Count what a template keeps to itself: it is no fault of the row, but a person should know."""
        for message in chat.messages[:upto]:
            said = content(message)
            # A template may write a tool's result as a JSON string.
            if message["role"] != "assistant" and not holds(text, said) and not holds(text, json.dumps(said)[1:-1]):
                self.notes[NO_CONTEXT] += 1
                break
        if self.dated:
            self.notes[DATED] += 1
        if chat.tools and not self.offers:
            self.notes[NO_TOOLS] += 1


def answers(chat: Conversation, train_on: TrainOn) -> list[int]:
    """Indices of the answers that are trained; an answer with nothing before it has no prompt and is not."""
    turns = [index for index, message in enumerate(chat.messages) if message["role"] == "assistant" and index > 0]
    if train_on == "all":  # an answer of weight 0 is then a stretch that is not trained, and of no use at the end
        while turns and chat.weights is not None and chat.weights[turns[-1]] == 0:
            turns.pop()
        return turns
    if chat.weights is not None:
        turns = [turn for turn in turns if chat.weights[turn] > 0]
    return turns[-1:] if train_on == "last" else turns


def weighted(chat: Conversation) -> bool:
    """Whether some answer of a conversation counts for more or less than another."""
    return chat.weights is not None and any(
        weight != 1
        for weight, message in zip(chat.weights, chat.messages, strict=True)
        if message["role"] == "assistant"
    )


def _weigh(row: Rendered, chat: Conversation, turns: Sequence[int], *, between: bool) -> None:
    """Weights for the spans of a row, one span per turn; ``between``: what stands around them is trained as well."""
    assert row.spans is not None and chat.weights is not None
    spans: list[tuple[int, int]] = []
    weights: list[float] = []
    at = 0
    for (start, end), turn in zip(row.spans, turns, strict=True):
        if between and at < start:
            spans.append((at, start))
            weights.append(1.0)
        if chat.weights[turn] > 0:
            spans.append((start, end))
            weights.append(float(chat.weights[turn]))
        at = end
    row.spans = spans
    row.span_weights = weights if any(weight != 1 for weight in weights) else None
