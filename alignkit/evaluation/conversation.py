"""A conversation with a model: turns kept, answers streamed, nothing read twice."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import torch

from alignkit.data.encoding.tokenizing import prompt_ids
from alignkit.data.rows import Message
from alignkit.errors import Fault, RequestError
from alignkit.evaluation.decoding import Decoder, continuation, room
from alignkit.evaluation.inference import context_length, reading
from alignkit.evaluation.stopping import stop_tokens

UNFINISHED = "\ufffd"  # what decoding shows for the first bytes of a character whose rest is not there yet


class Conversation:
    """Turns between a person and a model, whose cache lives on from turn to turn."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        system: str | None = None,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> None:
        """``temperature`` 0 takes the likeliest token each time; ``seed`` None draws differently every time.

        ``cut_off`` says after an answer whether the limit ended it and not the model.
        A tokenizer without a chat template (``templated`` False) has no turns: each text is continued as it stands.
        """
        self.model, self.tokenizer, self.system = model, tokenizer, system
        self.max_new_tokens, self.temperature, self.top_p = max_new_tokens, temperature, top_p
        self.templated = bool(tokenizer.chat_template)
        self.turns: list[Message] = []
        self.cut_off = False
        self._stop = stop_tokens(model, tokenizer)
        self._generator: torch.Generator | None = None
        if temperature:
            self._generator = torch.Generator(device=next(model.parameters()).device)
            if seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(seed)
        self._decoder = Decoder(model)
        self._cached: list[int] = []

    def reset(self) -> None:
        """Forget the turns; the system message stays."""
        self.turns = []
        self._forget()

    def ask(self, text: str) -> Generator[str, None, None]:
        """The answer to ``text``, piece by piece.

        Whoever stops reading, by closing the generator or with Ctrl-C, leaves what was written so far in the turns; a
        question that got no answer is not kept.

        Raises:
            RequestError: the conversation has filled the model's context, or the template refuses it (some allow no
                system message); the question is then taken back.
        """
        self.turns.append({"role": "user", "content": text})
        try:
            ids = self._prompt()
            tokens = self._room(ids)
        except RequestError:
            self.turns.pop()
            raise
        written = _Written(self.tokenizer)
        try:
            yield from self._write(ids, tokens, written)
        finally:
            if written.text:
                self.turns.append({"role": "assistant", "content": written.text})
            else:
                self.turns.pop()

    def _prompt(self) -> list[int]:
        """Everything said so far as tokens; without a template, the last text alone."""
        if not self.templated:
            return prompt_ids(self.tokenizer, self.turns[-1]["content"])
        system = [{"role": "system", "content": self.system}] if self.system else []
        try:
            return prompt_ids(self.tokenizer, system + self.turns)
        except RequestError:
            raise
        except Exception as error:  # a template is the model author's program: it may raise anything
            raise RequestError(
                Fault(where="chat template", what=f"the model's template refuses this conversation: {error}")
            ) from error

    def _room(self, ids: list[int]) -> int:
        """How many tokens the answer may have."""
        if not ids:
            raise RequestError(Fault(where="prompt", what="it holds no token", instead="Write something."))
        tokens = room(self.model, len(ids), self.max_new_tokens)
        if not tokens:
            raise RequestError(
                Fault(
                    where="prompt",
                    what=f"{len(ids)} tokens so far, and the model's context holds {context_length(self.model)}",
                    instead="Ask something shorter, or start anew (in the terminal: /reset).",
                )
            )
        return tokens

    def _write(self, ids: list[int], tokens: int, written: _Written) -> Iterator[str]:
        known = self._reuse(ids)
        stream = continuation(
            self._decoder,
            ids[known:],
            max_new_tokens=tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            generator=self._generator,
        )
        unread = ids[known:]
        self.cut_off = sound = False
        try:
            while True:
                with reading(self.model):  # not held across a yield: the reader may want the model as it was
                    token = next(stream, None)
                if token is None:
                    self.cut_off = True
                    break
                self._cached += unread
                if token in self._stop:
                    break
                unread = [token]
                if piece := written.add(token):
                    yield piece
            sound = True
            if rest := written.rest():
                yield rest
        except GeneratorExit:
            sound = True  # closed between two tokens
            raise
        finally:
            if not sound:  # interrupted in the middle of a forward pass: some layers have read more than others
                self._forget()

    def _reuse(self, ids: list[int]) -> int:
        """Cut the cache down to what it shares with ``ids``; how many tokens that is, at least one less than all."""
        shared = 0
        for old, new in zip(self._cached, ids[:-1], strict=False):
            if old != new:
                break
            shared += 1
        surplus = len(self._cached) - shared
        if surplus and shared:
            try:
                self._decoder.cache.crop(-surplus)
            except RuntimeError:  # sliding windows and state-space layers cannot go back: they read it all again
                shared = 0
        if shared:
            self._cached = ids[:shared]
        else:
            self._forget()
        return shared

    def _forget(self) -> None:
        self._decoder.cache = None
        self._cached = []


class _Written:
    """An answer that grows by tokens and is shown by characters."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown = 0

    @property
    def text(self) -> str:
        decoded: str = self._tokenizer.decode(self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return decoded

    def add(self, token: int) -> str:
        """What can be shown now that ``token`` is there: nothing while a character is incomplete."""
        self._ids.append(token)
        return "" if self.text.endswith(UNFINISHED) else self.rest()

    def rest(self) -> str:
        """Everything not shown yet."""
        text = self.text
        piece, self._shown = text[self._shown :], len(text)
        return piece
