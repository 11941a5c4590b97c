"""Reasons for known answers, asked of a teacher: what distilling step by step trains beside the answers (Hsieh et al.
2023, "Distilling Step-by-Step!"). There the teacher gives reason and label from a few examples; here the label is the
data's, and the teacher is told it, so that it does not argue for another (as in STaR, Zelikman et al. 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alignkit.config.sections import Data
from alignkit.data.encoding.tokenizing import prompt_ids
from alignkit.data.fingerprint import plain_digest
from alignkit.data.pool import Digest
from alignkit.data.prompts import Asked
from alignkit.data.report import Report
from alignkit.data.rows import Completion, Conversation, Document, Message, Said
from alignkit.data.splitting import nothing_left, read_pool, report_losses, report_of, split
from alignkit.data.store.ingest import Ingested
from alignkit.errors import Fault, RequestError

ANSWER = "{answer}"
"""Stands in an instruction where the row's answer goes."""


@dataclass(frozen=True, slots=True)
class Reasoned:
    """A row whose reason is asked for: its prompt and answer, and what the teacher is asked."""

    prompt: Said
    answer: str
    asked: Asked

    def row(self, rationale: str) -> dict[str, Any]:
        """As `data=` reads it, with the reason in a column `rationale`."""
        if isinstance(self.prompt, str):
            return {"prompt": self.prompt, "completion": self.answer, "rationale": rationale}
        row: dict[str, Any] = {"messages": [*self.prompt, {"role": "assistant", "content": self.answer}]}
        return row | ({"tools": self.asked.tools} if self.asked.tools else {}) | {"rationale": rationale}


@dataclass(frozen=True)
class PreparedReasons:
    """Rows in the order of their sources, the counts, and the sources of which rows were skipped."""

    rows: list[Reasoned]
    report: Report
    skipped: tuple[Ingested, ...] = ()


def prepare_reasons(
    section: Data, tokenizer: Any, instruction: str, *, room: int, digest_file: Digest = plain_digest
) -> PreparedReasons:
    """The demonstrations of a data section, each with a question for its reason.

    Args:
        instruction: put after the last thing said in the prompt; ``{answer}`` in it becomes the row's answer.
        room: tokens that a question may take; longer ones are left out and counted.

    Raises:
        RequestError: as ``prepare`` does; and for raw text, which has no answers to give reasons for.
    """
    pool = read_pool(section, tokenizer, wants="demonstration", digest_file=digest_file)
    report = report_of(pool)
    found = split(section, tokenizer, pool, report, wants="demonstration", digest_file=digest_file)
    lost = report_losses(report, section, pool)
    documents = list(dict.fromkeys(found.epoch.tolist()))
    rows = [reasoned(pool.document(number), tokenizer, instruction) for number in documents]
    fitting = [row for row in rows if len(row.asked.ids) <= room]
    if not fitting:
        raise nothing_left(section, pool, report, "ask", lost)
    if len(fitting) < len(rows):
        report.notes.append(f"questions of more than {room} tokens, not asked: {len(rows) - len(fitting):,}")
    return PreparedReasons(fitting, report, found.skipped)


def reasoned(document: Document, tokenizer: Any, instruction: str) -> Reasoned:
    """One row. Raises RequestError for a document without an answer."""
    if isinstance(document, Completion):
        prompt: Said = document.prompt
        answer, tools = document.completion, None
        question: Said = f"{document.prompt}{_told(instruction, answer)}"
    elif isinstance(document, Conversation):
        last = _last_answer(document)
        prompt, tools = document.messages[:last], document.tools
        answer = str(document.messages[last]["content"])
        question = _asking(prompt, _told(instruction, answer))
    else:
        what = "is raw text, which has no answer to give a reason for"
        raise RequestError(
            Fault(where=document.where, what=what, instead="Take conversations, or prompt and completion.")
        )
    ids = prompt_ids(tokenizer, question, tools)
    return Reasoned(prompt, answer, Asked(prompt=question, ids=ids, where=document.where, tools=tools))


def _last_answer(document: Conversation) -> int:
    places = [n for n, one in enumerate(document.messages) if one["role"] == "assistant" and one.get("content")]
    if not places or not places[-1]:
        what = "has no answer in words to give a reason for"
        raise RequestError(Fault(where=document.where, what=what, instead="Leave the row out."))
    return places[-1]


def _asking(prompt: Sequence[Message], instruction: str) -> list[Message]:
    """The prompt with the instruction at its end: in the user's last message, or as one where another spoke last."""
    last = dict(prompt[-1])
    if last["role"] == "user":
        return [*prompt[:-1], last | {"content": f"{last['content']}{instruction}"}]
    return [*prompt, {"role": "user", "content": instruction.strip()}]


def _told(instruction: str, answer: str) -> str:
    return "\n\n" + instruction.strip().replace(ANSWER, answer.strip())
