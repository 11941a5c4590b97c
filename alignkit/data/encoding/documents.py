"""Documents become rows of tokens that fit: rendering, tokenising, the rule for long rows; every loss is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from alignkit.config.sections import Data
from alignkit.data.encoding.lengths import cut_end, pieces, shorter
from alignkit.data.encoding.rendering import UNALIGNED, Rendered, Renderer
from alignkit.data.encoding.tokenizing import Encoder
from alignkit.data.formats.recognise import checkable
from alignkit.data.rows import Completion, Conversation, Demonstration, Encoded, HeldOut, Text
from alignkit.errors import Fault, RequestError

CHUNK = 512
"""Documents that are rendered and tokenised together."""

NO_ANSWER = "there is no answer to learn from (no assistant turn after a question)"
EMPTY_ANSWER = "an answer is empty"
NOTHING_TRAINED = "no token carries loss"


class DocumentEncoder:
    """Encodes documents by a data section, with one tokenizer. What it counts over all calls is for the report."""

    def __init__(self, section: Data, tokenizer: Any) -> None:
        self.section = section
        self.renderer = Renderer(tokenizer, section.train_on)
        self.last_answer = Renderer(tokenizer, "last")
        self.encoder = Encoder(tokenizer)

    def encode(self, documents: Sequence[Demonstration]) -> Encoding:
        """Training rows of all documents, in order, with the counts of what was lost."""
        done = Encoding(self.section)
        for document, row, rendered, _ in self._rows(documents, done):
            done.rows += [fitting for fitting, _ in self._fit(document, row, rendered, done)]
        return done

    def encode_held_out(self, documents: Sequence[Demonstration]) -> Encoding:
        """The same as HeldOut rows, with what is needed to generate an answer and compare it."""
        done = Encoding(self.section)
        for document, row, rendered, last in self._rows(documents, done):
            for fitting, source in self._fit(document, row, rendered, done):
                reference, check = checkable(document) if last else (source.answer, False)
                done.rows.append(
                    HeldOut(
                        fitting.input_ids,
                        fitting.labels,
                        fitting.where,
                        prompt=source.prompt,
                        reference=reference,
                        checkable=check,
                    )
                )
        return done

    def notes(self) -> list[str]:
        """What a person should hear about templates and tokens."""
        notes = [f"{count:,} {note}" for note, count in self.renderer.notes.items() if note != UNALIGNED]
        if self.renderer.notes[UNALIGNED]:
            notes.append(f"{self.renderer.notes[UNALIGNED]:,} {UNALIGNED}")
        return notes

    def _rows(
        self, documents: Sequence[Demonstration], done: Encoding
    ) -> Iterator[tuple[Demonstration, Encoded, Rendered, bool]]:
        """(document, its tokens, its text, whether this is the document's last row) for every row that trains."""
        usable = [document for document in documents if not self._unusable(document, done)]
        for start in range(0, len(usable), CHUNK):
            chunk = usable[start : start + CHUNK]
            rendered = self.renderer.render(chunk)
            encoded = iter(self.encoder.encode([text for texts in rendered for text in texts]))
            for document, texts in zip(chunk, rendered, strict=True):
                for number, text in enumerate(texts):
                    row = next(encoded)
                    if row.trained:
                        yield document, row, text, number == len(texts) - 1
                    else:
                        done.dropped[NOTHING_TRAINED] += 1

    def _unusable(self, document: Demonstration, done: Encoding) -> bool:
        """Whether a document has no answer, or an empty one; counted."""
        if isinstance(document, Conversation):
            answers = [m["content"] for i, m in enumerate(document.messages) if m["role"] == "assistant" and i]
            reason = NO_ANSWER if not answers else EMPTY_ANSWER if not all(map(str.strip, answers)) else ""
        elif isinstance(document, Completion):
            reason = "" if document.completion.strip() else EMPTY_ANSWER
        else:
            reason = "" if document.text.strip() else "the text is empty"
        if reason:
            done.dropped[reason] += 1
        return bool(reason)

    def _fit(
        self, document: Demonstration, row: Encoded, rendered: Rendered, done: Encoding
    ) -> list[tuple[Encoded, Rendered]]:
        """The row where it fits, what is left of it where it does not: nothing, one row, or pieces."""
        limit, rule = self.section.max_length, self.section.overlength
        done.lengths.append(len(row))
        if len(row) <= limit:
            return [(row, rendered)]
        if rule == "split" and isinstance(document, Text):
            done.split += 1
            return [(piece, rendered) for piece in pieces(row, limit, self.encoder.prefix)]
        done.long_rows.append(row.where)
        if rule == "truncate" and isinstance(document, Text):
            done.truncated += 1
            return [(cut_end(row, limit), rendered)]
        if rule == "truncate" and isinstance(document, Conversation):
            found = self._shortened(rendered, row.where)
            if found is not None:
                done.truncated += 1
                return [found]
        done.dropped[f"longer than data.max_length={limit}"] += 1
        return []

    def _shortened(self, rendered: Rendered, where: str) -> tuple[Encoded, Rendered] | None:
        """The conversation without its earliest exchanges, as many as it takes; None when even the last is too long."""
        one_answer = rendered.spans is not None and len(rendered.spans) == 1
        renderer = self.last_answer if one_answer else self.renderer
        for messages in shorter(rendered):
            texts = renderer.render([Conversation(messages, where)])[0]
            row = self.encoder.encode(texts)[-1]
            if len(row) <= self.section.max_length:
                return row, texts[-1]
        return None


class Encoding:
    """Rows and what was lost on the way to them."""

    def __init__(self, section: Data) -> None:
        self.section = section
        self.rows: list[Any] = []
        self.dropped: Counter[str] = Counter()
        self.lengths: list[int] = []
        """Tokens of every row before anything was cut."""
        self.long_rows: list[str] = []
        """Rows over max_length that were dropped or truncated."""
        self.truncated = 0
        self.split = 0

    def refuse_if_too_long(self) -> None:
        """Raise RequestError when overlength=error, or when more rows than data.overlength_limit are too long."""
        section, count = self.section, len(self.long_rows)
        if not count or (section.overlength != "error" and count <= section.overlength_limit * len(self.lengths)):
            return
        ordered = sorted(self.lengths)
        enough = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
        named = ", ".join(self.long_rows[:3]) + (" …" if count > 3 else "")
        share = f"{count:,} of {len(ordered):,} rows ({count / len(ordered):.0%})"
        limit = "" if section.overlength == "error" else f", and data.overlength_limit is {section.overlength_limit}"
        raise RequestError(
            Fault(
                where="data.max_length",
                what=f"{share} have more than {section.max_length} tokens{limit} "
                f"(the longest has {ordered[-1]:,}; {named})",
                instead=f"data.max_length={enough} would take 99% of the rows; or raise data.overlength_limit, or for "
                "raw text write data.overlength=split, which cuts it into pieces.",
            )
        )
