"""Documents become text with the spans that carry loss: the tokenizer's chat template is the only template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from alignkit.data.encoding.incremental import Incremental
from alignkit.data.encoding.outline import Outlines
from alignkit.data.encoding.rendered import Rendered, TrainOn
from alignkit.data.encoding.templating import last_special, special_tokens, try_template
from alignkit.data.encoding.turns import Foreign
from alignkit.data.rows import Completion, Conversation, Demonstration, Prompt, Text
from alignkit.errors import Fault, RequestError


class Renderer:
    """Renders documents in batches with one tokenizer. ``notes`` counts what a person should hear about.

    ``outlines``: plain conversations go the short way (outline.py), which may raise OutlinesDiffer.
    """

    def __init__(self, tokenizer: Any, train_on: TrainOn = "assistant", *, outlines: bool = True) -> None:
        self.tokenizer = tokenizer
        self.train_on = train_on
        self.notes: Counter[str] = Counter()
        self.foreign = Foreign(tokenizer)
        self.conversations = Outlines(Incremental(tokenizer, train_on, self.notes), on=outlines)

    def render(self, documents: Sequence[Demonstration | Prompt]) -> list[list[Rendered]]:
        """One list per document: usually of one text, empty when no turn carries loss.

        Raises RequestError for the first document that cannot be rendered, or when there is no template for
        conversations.
        """
        done = []
        for entry in self.render_each(documents):
            if isinstance(entry, Fault):
                raise RequestError(entry)
            done.append(entry)
        return done

    def render_each(self, documents: Sequence[Demonstration | Prompt]) -> list[list[Rendered] | Fault]:
        """The same with a Fault in the place of each document that cannot be rendered.

        Raises RequestError when there is no template for conversations.
        """
        done: dict[int, list[Rendered] | Fault] = {}
        chats: dict[int, Conversation] = {}
        prompts: dict[int, Prompt] = {}
        for number, document in enumerate(documents):
            if isinstance(document, Conversation):
                fault = self.foreign.fault(document.messages, document.where, document.tools)
                if fault is None:
                    chats[number] = document
                else:
                    done[number] = fault
            elif isinstance(document, Prompt):
                prompts[number] = document
            else:
                done[number] = [self._plain(document)]
        done.update(zip(chats, self.conversations.render([*chats.values()]), strict=True))
        done.update(zip(prompts, self._prompts([*prompts.values()]), strict=True))
        return [done[number] for number in range(len(documents))]

    def _plain(self, document: Completion | Text) -> Rendered:
        if isinstance(document, Text):
            return Rendered(document.text, None, document.where, eos=True, plain=True, document=document)
        start, text = len(document.prompt), document.prompt + document.completion
        spans = None if self.train_on == "all" else [(start, len(text))]
        return Rendered(text, spans, document.where, eos=True, plain=True, document=document)

    def _prompts(self, prompts: Sequence[Prompt]) -> list[list[Rendered] | Fault]:
        """What generation starts from; nothing is trained."""
        asked = {n: prompt.prompt for n, prompt in enumerate(prompts) if not isinstance(prompt.prompt, str)}
        wanted = [(messages, prompts[n].tools, prompts[n].where) for n, messages in asked.items()]
        texts = dict(zip(asked, try_template(self.tokenizer, wanted, True), strict=True))
        done: list[list[Rendered] | Fault] = []
        for number, prompt in enumerate(prompts):
            text = texts.get(number, prompt.prompt)
            fault = self.foreign.fault(asked[number], prompt.where, prompt.tools) if number in asked else None
            if fault is None and isinstance(text, Fault):
                fault = text
            turn = len(asked.get(number, []))
            plain = number not in asked
            done.append(fault or [Rendered(str(text), [], prompt.where, plain=plain, document=prompt, turn=turn)])
        return done


def end_of_turn(tokenizer: Any) -> str | None:
    """The special token that ends an answer in the tokenizer's template; None when there is none (eos is then used)."""
    if not tokenizer.chat_template:
        return None
    chat = Conversation([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "model")
    row = Renderer(tokenizer, "last").render([chat])[0][0]
    if row.eos:
        return None
    return row.text[last_special(special_tokens(tokenizer), row.text) :]
