"""Training rows as what was asked and answered: for teachers that write, and for tasks that change the prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alignkit.config.sections import Data
from alignkit.data.formats.kinds import CONVERSIONS
from alignkit.data.rows import Completion, Conversation, Document, Prompt, Said, Text
from alignkit.data.store.rowstore import View
from alignkit.data.writing import write
from alignkit.errors import Fault, RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A training row up to its last answer, and that answer as text (empty where it ends with a question)."""

    prompt: Said
    answer: str
    where: str
    tools: list[dict[str, Any]] | None = None
    known: str | None = None
    """What a checker compares an answer with, where the row says so."""


def questions(rows: View) -> Iterator[Question]:
    """The questions of training rows, in their order. Raises RequestError for one that asks nothing, and where
    conversations and plain prompts are mixed, which one file cannot hold."""
    convert, _ = CONVERSIONS["demonstration", "prompt"]
    kinds: set[type] = set()
    for document in documents(rows):
        if isinstance(document, Text):
            raise RequestError(
                Fault(
                    where=document.where,
                    what="is raw text, which asks nothing",
                    instead="Give prompts with answers, or write distill.mode=logits.",
                )
            )
        kinds.add(type(document))
        if len(kinds) > 1:
            raise RequestError(
                Fault(
                    where=document.where,
                    what="some rows are conversations and some plain prompts, and the teacher's texts go into one file",
                    instead="Train on them apart.",
                )
            )
        assert isinstance(document, Conversation | Completion)
        [prompt] = convert(document, Counter())
        assert isinstance(prompt, Prompt)
        yield Question(
            prompt=prompt.prompt,
            answer=_answer(document),
            where=document.where,
            tools=prompt.tools,
            known=document.answer,
        )


def documents(rows: View) -> Iterator[Document]:
    """What each training row says, in their order."""
    for which, row in zip(rows.which, rows.rows, strict=True):
        store = rows.stores[int(which)]
        yield store.document(int(store.documents[int(row)]))


def answered(question: Question, answer: str) -> Document:
    """A question with an answer, as a document to train on."""
    if isinstance(question.prompt, str):
        return Completion(question.prompt, answer, question.where, question.known)
    messages = [*question.prompt, {"role": "assistant", "content": answer}]
    return Conversation(messages, question.where, question.known, question.tools)


def prefixed(prompt: Said, prefix: str) -> Said:
    """A prompt with a text before its last turn."""
    if isinstance(prompt, str):
        return prefix + prompt
    *before, last = prompt
    return [*before, {**last, "content": f"{prefix}{last['content']}"}]


def keep(documents: Iterable[Document], plain: bool, path: Path) -> None:
    """Write documents to a JSON lines file, whole or not at all. ``plain``: they are prompts without a template."""
    write(documents, path, "prompt-completion" if plain else "messages")


def section_of(data: Data, file: Path) -> Data:
    """The data section that reads ``file`` as ``data`` reads its own rows; nothing is held out or left out of it."""
    return replace(
        data,
        name=str(file),
        sources=[],
        split="train",
        config=None,
        revision=None,
        format=None,
        columns={},
        map={},
        rows=None,
        train_on="last",
        dedup="none",
        holdout=0,
        holdout_name=None,
    )


def _answer(document: Conversation | Completion) -> str:
    if isinstance(document, Completion):
        return document.completion
    last = document.messages[-1]
    return str(last.get("content") or "") if last["role"] == "assistant" else ""
