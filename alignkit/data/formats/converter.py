"""From rows to documents of the kind a stage wants: decided once from the first row, then applied to every row."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field, replace

from alignkit.config.sections import DataSource
from alignkit.data.formats.agreement import agrees
from alignkit.data.formats.cells import bad, count
from alignkit.data.formats.columns import Columns, columns_of
from alignkit.data.formats.kinds import CONVERSIONS, refusal
from alignkit.data.formats.order import SYSTEM, answered
from alignkit.data.formats.shapes import Shape
from alignkit.data.formats.table import FORMATS, NAMES, recognise_columns
from alignkit.data.rows import (
    Completion,
    Conversation,
    Document,
    Kind,
    Labelled,
    Message,
    Preference,
    Prompt,
    Row,
    Text,
)
from alignkit.data.rules import DEFAULT, Rules
from alignkit.errors import RequestError

BESIDE = frozenset(
    {"system", "tools", "answer", "history", "input", "chosen_score", "rejected_score", "margin", "group"}
)
"""Parts that a row may leave out."""


@dataclass
class Converter:
    """Rows of one source become documents. Plain data, so that it can be sent to another process.

    ``format``: its name in the table of formats; ``found``: the kind of its rows; ``kind``: of the documents that come
    out. ``notes`` counts, in this process, what a person should hear: rows that were cut or left out, and why.
    """

    format: str
    shape: Shape
    kind: Kind
    columns: Columns
    first: frozenset[str]
    """The columns of the first row, by our names."""
    system: str | None
    said: str
    """For people: "Alpaca (columns instruction, input, output)"."""
    wants: Kind | None = None
    forced: str | None = None
    rules: Rules = DEFAULT
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        """What the rows are, without their columns: "chat messages"."""
        return self.shape.name

    @property
    def found(self) -> Kind:
        """The kind of the rows, before they are converted."""
        return FORMATS[self.format].kind

    @property
    def raw_text(self) -> bool:
        """Whether the documents are raw text, which may be cut into pieces."""
        return self.kind == "demonstration" and self.format in ("text", "labelled")

    def __str__(self) -> str:
        return self.said

    def __call__(self, row: Row) -> list[Document]:
        """The documents of a row: one as a rule, two where a pair is taken apart, none where the row has none of the
        kind that is wanted (counted in ``notes``).

        Raises RequestError naming the row, and the turn, what was found and what to do.
        """
        if not self.columns:
            return self._beside(row, self._documents(row))
        renamed = self.columns.apply(row)
        try:
            return self._beside(row, self._documents(renamed))
        except RequestError as error:
            raise self.columns.theirs(error) from None

    def _beside(self, row: Row, documents: list[Document]) -> list[Document]:
        """The documents; prompts that a stage asked for with all of their row, by the names that stand there."""
        if self.wants != "prompt":
            return documents
        columns = json.loads(json.dumps(row.values, default=str))  # dates and the like become text, as in the store
        return [replace(one, columns=columns) if isinstance(one, Prompt) else one for one in documents]

    def _documents(self, row: Row) -> list[Document]:
        shape = self.shape if row.values.keys() == self.first else self._other_columns(row)
        document = FORMATS[self.format].read(row, shape, self.notes)
        if isinstance(document, Preference) and not agrees(document, self.rules.odd_scores, self.notes):
            return []
        if self.system:
            document = _introduced(document, self.system)
        if isinstance(document, Conversation) and self.kind == "demonstration":
            document = answered(document, self.notes)
        if self.found == self.kind:
            return [document]
        return CONVERSIONS[self.found, self.kind][0](document, self.notes)

    def _other_columns(self, row: Row) -> Shape:
        """The shape of a row with other columns than the first: the same, with what may stand beside it, since a row of
        a JSONL file may leave out what it has not. Raises RequestError where the columns make another format."""
        shape = self.shape
        if any(column not in row.values for part, column in shape.parts.items() if part not in BESIDE):
            return shape  # what reads it will say what is missing
        name, found = recognise_columns(row, self.wants, self.forced)
        new = [column for column in row.values if column not in self.first]
        if FORMATS[name].read is not FORMATS[self.format].read or found.plain != shape.plain:
            columns = ", ".join(f"`{column}`" for column in new) or ", ".join(row.values)
            what = f"would be read as {found.name} by its columns ({columns}), the first row as {shape.name}"
            raise bad(row.where, what, "Give all rows the same columns, or split the file.")
        parts = {**found.parts, **shape.parts}
        for column in new:
            if column not in parts.values():
                count(self.notes, f"rows with a column `{column}`, which the first row lacks and nothing reads")
        return replace(shape, parts=parts)


def plan(source: DataSource, wants: Kind | None, first: Row, rules: Rules = DEFAULT) -> Converter:
    """How the rows of a source are read, from its first row.

    Args:
        source: its format, columns, map and system prompt.
        wants: the kind of document that the stage learns from; None: whatever the rows are.
        first: the first row that could be read.
        rules: of which those about scores are read here.

    Raises:
        RequestError: the columns are no format, an option does not fit them, or the kind cannot be made of them.
    """
    columns = columns_of(source.columns, source.map, first, NAMES)
    row = columns.apply(first) if columns else first
    name, shape = recognise_columns(row, wants, source.format)
    kind = FORMATS[name].kind
    raw = name == "text"
    said = f"{shape.name} ({_listed(shape, row, columns)})"
    if wants not in (None, kind) and ((kind, wants) not in CONVERSIONS or (raw and wants == "prompt")):
        raise RequestError(refusal(kind, wants, said, where=first.where))
    if wants is not None and wants != kind:
        said += f" → {CONVERSIONS[kind, wants][1]}"
    if source.system and shape.plain:
        said += "; data.system is not used, since there is no conversation"
    first_columns = frozenset(row.values)
    return Converter(
        name, shape, wants or kind, columns, first_columns, source.system, said, wants, source.format, rules
    )


def _listed(shape: Shape, row: Row, columns: Columns) -> str:
    """The columns that are read, and those that are not."""
    read = list(dict.fromkeys(shape.parts.values()))
    ignored = [column for column in row.values if column not in read]
    text = f"column{'s' if len(read) > 1 else ''} {', '.join(map(columns.said, read))}"
    return f"{text}; ignored: {', '.join(ignored)}" if ignored else text


def _introduced(document: Document, system: str) -> Document:
    """The document with a system prompt before its conversation, unless that has one or there is none."""
    if isinstance(document, Completion | Text | Labelled):
        return document
    turn: Message = {"role": "system", "content": system}
    if isinstance(document, Conversation):
        if document.messages[0]["role"] in SYSTEM:
            return document
        weights = None if document.weights is None else (0.0, *document.weights)
        return replace(document, messages=[turn, *document.messages], weights=weights)
    if isinstance(document.prompt, str) or document.prompt[0]["role"] in SYSTEM:
        return document
    return replace(document, prompt=[turn, *document.prompt])
