"""What decides which rows a data section becomes, part by part, so that a difference can be named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from alignkit.config.sections import Data, Model
from alignkit.data.fingerprint import content_digest, plain_digest
from alignkit.models.sources import identity, locate

NOT_THE_ROWS = frozenset({"packing", "group_by_length", "sources"})
"""Options of data that say how rows lie in a batch; and sources, which are looked at one by one."""


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """Digests of 16 hex digits, and the values of the data section's options that decide the rows."""

    vocabulary: str
    template: str
    data: str
    options: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Circumstances:
        """What ``as_dict`` made."""
        return cls(**plain)

    def differences(self, other: Circumstances) -> list[str]:
        """What is not the same in ``other``, in words: "the chat template", "data.max_length (512, here 1024)"."""
        found = []
        if self.vocabulary != other.vocabulary:
            found.append("the tokenizer's vocabulary")
        if self.template != other.template:
            found.append("the chat template")
        if self.data != other.data:
            found.append("the contents of the data")
        for name in sorted({*self.options, *other.options}):
            before, now = self.options.get(name), other.options.get(name)
            if before != now:
                found.append(f"data.{name} ({_shown(before)}, here {_shown(now)})")
        return found


def circumstances(section: Data, tokenizer: Any, *, digest_file: Callable[[Path], str] = plain_digest) -> Circumstances:
    """Those of a data section read with a tokenizer (with the template of `data.template` installed, if one is)."""
    return Circumstances(
        vocabulary=vocabulary_digest(tokenizer),
        template=_digest(tokenizer.chat_template),
        data=content_digest(section, digest_file)[:16],
        options=_options(section),
    )


def model_digest(section: Model, digest_file: Callable[[Path], str] = plain_digest) -> str:
    """16 hex digits for what a model is, apart from where it lies. Raises RequestError where it is not there."""
    return _digest(sorted(identity(locate(section), digest_file).items()))


def vocabulary_digest(tokenizer: Any) -> str:
    """16 hex digits for which text each id stands for."""
    return _digest(sorted(tokenizer.get_vocab().items()))


def _options(section: Data) -> dict[str, Any]:
    """Values that decide the rows; names of files do not, their contents do."""
    found = {
        field.name: getattr(section, field.name)
        for field in fields(section)
        if not field.metadata.get("operational") and field.name not in NOT_THE_ROWS
    }
    found["sources"] = [
        {field.name: getattr(one, field.name) for field in fields(one) if not field.metadata.get("operational")}
        for one in section.sources
        if is_dataclass(one)
    ]
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}…"
