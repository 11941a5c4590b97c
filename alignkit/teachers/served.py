"""A server as a teacher: it reads a row and lists the likeliest tokens of each position.

The `/completions` endpoint with `echo` and `logprobs` (vLLM, SGLang and others; the chat endpoint lists only what the
server itself writes). Rows go out as token ids. Tokens come back as text, or as `token_id:7` where a server can
(vLLM's `return_tokens_as_token_ids`); a text that several ids spell names none of them, and its probability is
counted to the tail.

Letters: N labelled positions, k listed entries, t tokens of a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alignkit.errors import Fault, RequestError, RunError
from alignkit.teachers.http import Client, RefusedError
from alignkit.teachers.recipe import Server
from alignkit.teachers.teacher import RowTokens, rows_of
from alignkit.training.targets import TopKTargets

PREFIX = "token_id:"
MOST_MASS = 1.001
"""Probability of the tokens of one position, beyond which they are no probabilities."""


class ServedTeacher:
    """Targets from a server; ``require_log_probs`` first."""

    def __init__(
        self, server: Server, tokenizer: Any, *, name: str, entries: int | None = None, where: str = "cache.server"
    ) -> None:
        """
        Args:
            tokenizer: the teacher's, which is the student's too.
            name: what the server calls the model.
            entries: how many of the listed tokens are kept; None: all that are asked for.
            where: the key that a person wrote the section under.
        """
        self.client, self.tokenizer, self.name, self.where = Client(server, where=where), tokenizer, name, where
        self.asked = server.top_logprobs
        self.entries = entries or server.top_logprobs
        self.parallel = server.parallel

    @property
    def vocabulary(self) -> int:
        return 1 + int(max(self.tokenizer.get_vocab().values()))

    def targets(self, batch: Mapping[str, Any]) -> TopKTargets:
        """The listed tokens of a batch's positions, on the CPU. Raises RunError where the server's answer is not what
        ``require_log_probs`` saw."""
        rows = [row for row in rows_of(batch) if row.labelled.any()]
        with ThreadPoolExecutor(self.parallel) as pool:
            found = list(pool.map(self._row, rows))
        ids = np.concatenate([one for one, _ in found]) if found else np.zeros((0, self.entries), np.int64)
        values = np.concatenate([one for _, one in found]) if found else np.zeros((0, self.entries), np.float32)
        return TopKTargets(torch.from_numpy(ids), torch.from_numpy(values))

    def require_log_probs(self) -> None:
        """Ask for two tokens' worth. Raises RequestError for a server that lists no log-probabilities of what it reads,
        does not know the model, or reads other tokens; RunError where it cannot be reached."""
        some = [token for token in range(min(64, self.vocabulary)) if token not in self.tokenizer.all_special_ids]
        ids = np.array((some or [0])[:1] * 3, np.int64)
        try:
            self._row(RowTokens(ids, np.array([False, True, True])))
        except _NoLogProbsError as error:
            raise RequestError(
                Fault(
                    where=f"{self.where}.url",
                    what=f"{self.client.server.url} answers without log-probabilities of the tokens it reads ({error})",
                    instead="Take a server whose /completions knows `echo` and `logprobs` (vLLM), or distil its texts "
                    "(recipe=teacher-answers).",
                )
            ) from error
        except RefusedError as error:
            raise RequestError(
                Fault(where=f"{self.where}.url", what=f"the server refuses to list log-probabilities: {error}")
            ) from error

    def _row(self, row: RowTokens) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Ids and log-probabilities (n, k) at a row's n labelled positions."""
        answer = self.client.post(
            "/completions",
            {
                "model": self.name,
                "prompt": row.ids.tolist(),
                "max_tokens": 1,  # some servers refuse 0
                "temperature": 0,
                "echo": True,
                "logprobs": self.asked,
                "return_tokens_as_token_ids": True,
            },
        )
        listed = _listed(answer, len(row.ids))
        ids = np.zeros((int(row.labelled.sum()), self.entries), np.int64)
        values = np.full(ids.shape, -np.inf, np.float32)
        for at, place in enumerate(np.flatnonzero(row.labelled)):
            tokens = self._known(listed[int(place)])
            self._fill(ids[at], values[at], tokens)
        return ids, values

    def _known(self, entries: Mapping[str, Any]) -> list[tuple[float, int]]:
        """(log-probability, id) of the listed tokens that name one id, the likeliest first."""
        best: dict[int, float] = {}
        for text, value in entries.items():
            token = self._id(text)
            if token is not None:
                best[token] = max(float(value), best.get(token, -math.inf))
        found = sorted(((min(value, 0.0), token) for token, value in best.items()), reverse=True)
        mass = math.fsum(math.exp(value) for value, _ in found)
        if not math.isfinite(mass) or mass > MOST_MASS:
            raise RunError(f"{self.client.server.url} lists probabilities of one position that sum to {mass:.3f}.")
        return found

    def _fill(self, ids: NDArray[np.int64], values: NDArray[np.float32], tokens: list[tuple[float, int]]) -> None:
        """One position's entries (k,); those that are not there get ids that no other of them has."""
        kept = tokens[: self.entries]
        taken = {token for _, token in kept}
        free = (token for token in range(self.vocabulary) if token not in taken)
        for at in range(len(ids)):
            if at < len(kept):
                values[at], ids[at] = kept[at]
            else:
                ids[at] = next(free)

    def _id(self, text: str) -> int | None:
        if text.startswith(PREFIX) and text[len(PREFIX) :].isdigit():
            token = int(text[len(PREFIX) :])
            return token if token < self.vocabulary else None
        return self._by_text.get(text)

    @cached_property
    def _by_text(self) -> dict[str, int]:
        """Each text that one id alone spells, to that id."""
        found: dict[str, int] = {}
        several: set[str] = set()
        for token in sorted(set(self.tokenizer.get_vocab().values())):
            text = self.tokenizer.decode([token], clean_up_tokenization_spaces=False)
            if text in found:
                several.add(text)
            found[text] = token
        return {text: token for text, token in found.items() if text not in several}


class _NoLogProbsError(RunError):
    """The answer lists none; the text says what it has in their place."""


def _listed(answer: Mapping[str, Any], tokens: int) -> list[Mapping[str, Any]]:
    """What is listed at each of a row's tokens, {} at the first. Raises _NoLogProbsError."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise _NoLogProbsError("it has no `choices`")
    logprobs = choices[0].get("logprobs")
    if not isinstance(logprobs, dict):
        raise _NoLogProbsError("`logprobs` is missing")
    top = logprobs.get("top_logprobs")
    if not isinstance(top, list) or not any(top):
        raise _NoLogProbsError("`top_logprobs` is missing")
    if len(top) not in (tokens, tokens + 1):
        raise _NoLogProbsError(f"{len(top)} positions came for a row of {tokens} tokens, so it reads other tokens")
    if not all(isinstance(one, dict) and one for one in top[1:tokens]):
        raise _NoLogProbsError("some positions have none")
    return [one or {} for one in top[:tokens]]
