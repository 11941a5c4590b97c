"""Documents become text with the spans that carry loss: the tokenizer's chat template is the only template.

For messages m_1..m_n and an answer m_i, what generation sees is ``template(m_1..m_{i-1}, generation prompt)`` and what
stands after the answer is ``template(m_1..m_i)``; the difference is the answer with its end of turn. So any template
works, without generation markers. A template that rewrites earlier turns (one that strips old reasoning, say) makes
one row per answer, each exactly as generation saw it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from alignkit.data.rows import Completion, Conversation, Demonstration, Message
from alignkit.errors import Fault, RequestError

TrainOn: TypeAlias = Literal["assistant", "last", "all"]

REWRITTEN = "conversations became one row per answer, because the template rewrites earlier turns"
NO_END = "conversations became one row per answer, because the template does not end a turn with a special token"
UNALIGNED = "answers do not begin as the template's generation prompt ends; they are trained from where both agree"


@dataclass(slots=True)
class Rendered:
    """Text to be tokenised. ``spans``: the character ranges [start, end) that carry loss; None: all of it.

    ``eos``: the text does not end its turn itself, so the eos token is appended (and trained). ``plain``: no template
    wrote this, so the tokenizer's own prefix (a BOS, if it adds one) belongs before it. ``prompt`` and ``answer``: what
    to generate from and what was answered, for the last trained answer.
    """

    text: str
    spans: list[tuple[int, int]] | None
    where: str
    eos: bool = False
    plain: bool = False
    prompt: list[Message] | str | None = None
    answer: str | None = None


class Renderer:
    """Renders documents in batches with one tokenizer. ``notes`` counts what a person should hear about."""

    def __init__(self, tokenizer: Any, train_on: TrainOn = "assistant") -> None:
        self.tokenizer = tokenizer
        self.train_on = train_on
        self.special = special_tokens(tokenizer)
        self.notes: Counter[str] = Counter()

    def render(self, documents: Sequence[Demonstration]) -> list[list[Rendered]]:
        """One list per document: usually of one text, empty when no turn carries loss.

        Raises RequestError when the template refuses a row, or when there is no template for conversations.
        """
        chats = [document for document in documents if isinstance(document, Conversation)]
        rendered = iter(self._conversations(chats) if chats else [])
        return [next(rendered) if isinstance(d, Conversation) else [self._plain(d)] for d in documents]

    def _plain(self, document: Demonstration) -> Rendered:
        if isinstance(document, Completion):
            start, text = len(document.prompt), document.prompt + document.completion
            return Rendered(
                text,
                None if self.train_on == "all" else [(start, len(text))],
                document.where,
                eos=True,
                plain=True,
                prompt=document.prompt,
                answer=document.completion,
            )
        assert not isinstance(document, Conversation)
        return Rendered(document.text, None, document.where, eos=True, plain=True)

    def _conversations(self, chats: Sequence[Conversation]) -> list[list[Rendered]]:
        turns = [_answers(chat.messages, self.train_on) for chat in chats]
        every = self.train_on == "all"
        wanted = [
            (chat.messages if every else chat.messages[: turn + 1], chat.messages[:turn], chat.where)
            for chat, answers in zip(chats, turns, strict=True)
            for turn in (answers[-1:] if every else answers)
        ]
        wheres = [where for _, _, where in wanted]
        fulls = iter(self._template([full for full, _, _ in wanted], wheres, False))
        if every:
            return [[self._all(chat, found, fulls)] if found else [] for chat, found in zip(chats, turns, strict=True)]
        prompts = iter(self._template([prompt for _, prompt, _ in wanted], wheres, True))
        return [self._turns(chat, answers, fulls, prompts) for chat, answers in zip(chats, turns, strict=True)]

    def _all(self, chat: Conversation, answers: list[int], fulls: Any) -> Rendered:
        text = next(fulls)
        ended = _last_special(self.special, text) < len(text)
        text = text if ended else text.rstrip()
        last = answers[-1]
        return Rendered(
            text, None, chat.where, eos=not ended, prompt=chat.messages[:last], answer=chat.messages[last]["content"]
        )

    def _turns(self, chat: Conversation, answers: list[int], fulls: Any, prompts: Any) -> list[Rendered]:
        """One row with every answer's span, or one row per answer where the template does not allow that."""
        rows = [self._turn(chat, turn, next(fulls), next(prompts)) for turn in answers]
        if len(rows) < 2:
            return rows
        whole = rows[-1]
        if any(row.eos for row in rows[:-1]):
            self.notes[NO_END] += 1
            return rows
        if not all(whole.text.startswith(row.text) for row in rows):
            self.notes[REWRITTEN] += 1
            return rows
        whole.spans = [span for row in rows for span in row.spans or []]
        return [whole]

    def _turn(self, chat: Conversation, turn: int, full: str, prompt: str) -> Rendered:
        content = chat.messages[turn]["content"]
        start = len(prompt)
        if not full.startswith(prompt):
            start = next(
                (at for at, (left, right) in enumerate(zip(full, prompt, strict=False)) if left != right), len(full)
            )
            self.notes[UNALIGNED] += 1
        end, ended = self._end(full, start, content)
        return Rendered(
            full[:end], [(start, end)], chat.where, eos=not ended, prompt=chat.messages[:turn], answer=content
        )

    def _end(self, full: str, start: int, content: str) -> tuple[int, bool]:
        """Where the answer's end of turn ends, and whether the template wrote a special token there."""
        body = content.strip()
        at = full.find(body, start)
        if at >= 0 and (match := self.special.search(full, at + len(body))):
            return match.end(), True
        end = len(full.rstrip())
        return end, _last_special(self.special, full[:end]) < end

    def _template(self, batch: list[list[Message]], wheres: list[str], generation: bool) -> list[str]:
        """The template over many conversations; when one fails, it is found and named."""
        if not batch:
            return []
        if not self.tokenizer.chat_template:
            raise no_template(wheres[0])
        try:
            return list(apply_template(self.tokenizer, batch, generation))
        except Exception:  # a template is the model author's program: it may raise anything
            for messages, where in zip(batch, wheres, strict=True):
                try:
                    apply_template(self.tokenizer, [messages], generation)
                except Exception as error:
                    roles = ", ".join(message["role"] for message in messages)
                    raise RequestError(
                        Fault(
                            where=where,
                            what=f"the model's chat template refuses this conversation (roles {roles}): {error}",
                            instead="Change the roles or their order, or take a model whose template allows them.",
                        )
                    ) from error
            raise


def apply_template(tokenizer: Any, batch: Sequence[Sequence[Message]], generation: bool) -> list[str]:
    """The one call of the chat template; training and generation both come through here."""
    texts: list[str] = tokenizer.apply_chat_template(
        [list(messages) for messages in batch], tokenize=False, add_generation_prompt=generation
    )
    return texts


def prompt_text(tokenizer: Any, prompt: Sequence[Message] | str) -> str:
    """What generation starts from, as text; a plain string stays as it is."""
    if isinstance(prompt, str):
        return prompt
    if not tokenizer.chat_template:
        raise no_template("model")
    return apply_template(tokenizer, [prompt], True)[0]


def no_template(where: str) -> RequestError:
    """The error for conversations and a model that has no chat template."""
    return RequestError(
        Fault(
            where=where,
            what="the rows are conversations, and the model's tokenizer has no chat template",
            instead="Take an instruct model, or data with plain `prompt` and `completion` text.",
        )
    )


def special_tokens(tokenizer: Any) -> re.Pattern[str]:
    """A pattern that finds the tokenizer's special tokens in rendered text, the longest first."""
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    names = sorted({*added, *tokenizer.all_special_tokens}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names)) if names else r"(?!)")


def end_of_turn(tokenizer: Any) -> str | None:
    """The special token that ends an answer in the tokenizer's template; None when there is none (eos is then used)."""
    if not tokenizer.chat_template:
        return None
    chat = Conversation([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "model")
    row = Renderer(tokenizer, "last").render([chat])[0][0]
    if row.eos:
        return None
    return row.text[_last_special(special_tokens(tokenizer), row.text) :]


def _answers(messages: Sequence[Message], train_on: TrainOn) -> list[int]:
    """Indices of the answers that are trained; an answer with nothing before it has no prompt and is not."""
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant" and index > 0]
    return turns[-1:] if train_on == "last" else turns


def _last_special(special: re.Pattern[str], text: str) -> int:
    """Where the special token that ends `text` (but for white space) begins; the length of `text` when none does."""
    end = len(text.rstrip())
    tail = max(0, end - 128)
    for match in special.finditer(text, tail, end):
        if match.end() == end:
            return match.start()
    return len(text)
