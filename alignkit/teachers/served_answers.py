"""Answers from a server: the chat endpoint for conversations, which lays them out itself, the other for plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from alignkit.data.prompts import Asked
from alignkit.errors import RunError
from alignkit.teachers.answers import Drawing, Drawn
from alignkit.teachers.http import Client, RefusedError
from alignkit.teachers.recipe import Server

ROUNDS = 4
"""Prompts of a call for each request at once: the last of them keeps only some connections idle."""


class ServedAnswerer:
    """A model behind a server; each answer is a request of its own, since not every server draws several at once."""

    def __init__(
        self, server: Server, tokenizer: Any, drawing: Drawing, *, name: str, where: str = "answers.server"
    ) -> None:
        """``tokenizer``: counts the tokens of an answer where the server does not; ``name``: of its model."""
        self.client, self.tokenizer, self.drawing, self.name = Client(server, where=where), tokenizer, drawing, name
        self.parallel = server.parallel
        self._limit = "max_tokens"

    @property
    def together(self) -> int:
        return max(1, ROUNDS * self.parallel // self.drawing.samples)

    def answers(self, asked: Sequence[Asked], numbers: Sequence[int]) -> list[list[Drawn]]:
        samples = self.drawing.samples
        wanted = [(one, number, n) for one, number in zip(asked, numbers, strict=True) for n in range(samples)]
        with ThreadPoolExecutor(self.parallel) as pool:
            found = list(pool.map(lambda each: self._one(*each), wanted))
        return [found[start : start + samples] for start in range(0, len(found), samples)]

    def _one(self, asked: Asked, number: int, sample: int) -> Drawn:
        drawing = self.drawing
        seed = int(np.random.SeedSequence([drawing.seed, number, sample]).generate_state(1)[0]) >> 1
        body: dict[str, Any] = {
            "model": self.name,
            "temperature": drawing.temperature,
            "top_p": drawing.top_p,
            "seed": seed,
        }
        if isinstance(asked.prompt, str):
            return self._read(self._post("/completions", body | {"prompt": asked.prompt}))
        body["messages"] = asked.prompt
        if asked.tools:
            body["tools"] = asked.tools
        return self._read(self._post("/chat/completions", body))

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Newer models of some vendors call the limit otherwise, and say so."""
        try:
            return self.client.post(path, {**body, self._limit: self.drawing.max_new_tokens})
        except RefusedError as error:
            if error.status != 400 or "max_completion_tokens" not in str(error) or self._limit != "max_tokens":
                raise
            self._limit = "max_completion_tokens"
            return self.client.post(path, {**body, self._limit: self.drawing.max_new_tokens})

    def _read(self, answer: Mapping[str, Any]) -> Drawn:
        try:
            choice = answer["choices"][0]
            text = choice["message"]["content"] if "message" in choice else choice["text"]
            finished = choice.get("finish_reason") in ("stop", "tool_calls")
        except (KeyError, IndexError, TypeError, AttributeError):
            raise RunError(f"{self.client.server.url} gives an answer without text in its `choices`.") from None
        text = text if isinstance(text, str) else ""
        counted = (answer.get("usage") or {}).get("completion_tokens")
        if not isinstance(counted, int):
            counted = len(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return Drawn(text, counted, finished)
