"""The README of a result: a model card whose metadata the hub accepts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from alignkit.console.plain import printable
from alignkit.models.gguf_header import NotGGUFError, read_values
from alignkit.models.locating import Source


@dataclass(kw_only=True)
class Card:
    """What a model card says."""

    title: str
    summary: str
    """A sentence or two: what was done to which model."""
    adapter: bool = False
    base_model: str | list[str] | None = None
    """Only hub names; a path means nothing to a reader elsewhere."""
    relation: str | None = None
    """What the model is to its base in the hub's words; None: adapter or finetune."""
    license: str | None = None
    """Of the base, where known; a fine-tuned model inherits it."""
    tags: list[str] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    """Hub names only."""
    sections: list[tuple[str, str]] = field(default_factory=list)
    """Heading and Markdown text, in order: the tables of the proof of effect, the settings, the versions."""


def license_of(source: Source) -> str | None:
    """The license a model states: in its GGUF header or its own card; of an adapter, its base's. None: not known."""
    if source.adapter and source.parent is not None:
        return license_of(source.parent)
    if source.path is None:
        return None
    if source.kind == "gguf":
        try:
            found = read_values(source.path, ("general.license",)).get("general.license")
        except (NotGGUFError, OSError):
            return None
    else:
        found = _front_matter(source.path / "README.md").get("license")
    return found if isinstance(found, str) and found else None


def _front_matter(path: Path) -> dict[str, Any]:
    """The YAML header of a card; empty where there is none that can be read."""
    try:
        parts = path.read_text(encoding="utf-8").split("---\n", 2)
        header = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return header if isinstance(header, dict) else {}


def escaped(text: str) -> str:
    """A name, or a line about data, as Markdown that shows it and does nothing else: one line, no markup of its own."""
    return re.sub(r"([\\`*_\[\]|~#>])", r"\\\1", _no_markup(" ".join(printable(text).split())))


def fenced(text: str, language: str = "") -> str:
    """A block of code whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{printable(text).strip()}\n{fence}"


def _no_markup(text: str) -> str:
    """Text in which nothing is read as HTML."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)


def _outside_fences(text: str) -> str:
    """The same for Markdown, whose blocks of code stay as they are."""
    lines, fence = [], ""
    for line in text.split("\n"):
        mark = re.match(r"`{3,}", line)
        if mark and not fence:
            fence = mark.group()
        elif fence and line.strip() == fence:
            fence = ""
        elif not fence:
            line = _no_markup(line)
        lines.append(line)
    return "\n".join(lines)


def write_card(directory: Path, card: Card) -> Path:
    """Write README.md into `directory`; returns its path."""
    metadata: dict[str, Any] = {}
    if card.base_model:
        metadata["base_model"] = card.base_model
        metadata["base_model_relation"] = card.relation or ("adapter" if card.adapter else "finetune")
    metadata["library_name"] = "peft" if card.adapter else "transformers"
    metadata["pipeline_tag"] = "text-generation"
    if card.license:
        metadata["license"] = card.license
    if card.datasets:
        metadata["datasets"] = list(card.datasets)
    metadata["tags"] = list(dict.fromkeys(["alignkit", *card.tags]))
    header = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    title = _no_markup(" ".join(printable(card.title).split()))
    parts = [f"---\n{header}---", f"# {title}", _no_markup(card.summary.strip())]
    parts += [f"## {heading}\n\n{_outside_fences(text.strip())}" for heading, text in card.sections]
    path = Path(directory) / "README.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path
