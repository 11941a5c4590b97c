"""What is wrong with a request's chat template, told from names and the first row. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator

from alignkit.config.sections import Data
from alignkit.data.formats.converter import plan
from alignkit.data.reading.places import locate
from alignkit.data.reading.readers import READERS
from alignkit.data.rows import Conversation, Document, Row
from alignkit.errors import Fault, RequestError

LIMIT = 1_000_000
"""Bytes read of a file to see its first row."""


def template_faults(section: Data, has_template: bool | None, *, where: str = "data") -> Iterator[Fault]:
    """No template where the rows need one. (That `data.template` can be installed is seen by data/check.py.)

    ``has_template``: whether the model brings one; None: not known, then nothing is said of it.
    """
    if section.template is None and has_template is False and _conversational(section):
        yield Fault(
            where=f"{where}.template",
            what="the rows are conversations, and the model has no chat template",
            instead=f"Write {where}.template=chatml to install one (its tokens are added and trained), or take an "
            "instruct model.",
        )


def _conversational(section: Data) -> bool:
    """Whether the first row that can be read is rendered with a template; False where none can be seen here."""
    for source in section.parts():
        try:
            place = locate(source.name)
            if place.kind != "files" or not place.files:
                continue
            file = place.files[0]
            rows = READERS[file.suffix.lower()](file, str(file), LIMIT)
            first = next((row for row in rows if isinstance(row, Row)), None)
            if first is not None and any(map(_needs_template, plan(source, None, first)(first))):
                return True
        except (RequestError, OSError):
            continue  # what is wrong with the rows is said by data/check.py
    return False


def _needs_template(document: Document) -> bool:
    if isinstance(document, Conversation):
        return True
    parts = [getattr(document, name, None) for name in ("prompt", "chosen", "completion", "answers")]
    return any(isinstance(part, list) for part in parts)
