"""Whether a model brings a chat template, read from its files without a tokenizer."""

from __future__ import annotations

from alignkit.errors import RequestError
from alignkit.models.gguf_header import NotGGUFError, read_values
from alignkit.models.jsonfile import read_object
from alignkit.models.locating import Source

_FILES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")


def has_chat_template(source: Source) -> bool | None:
    """Whether the tokenizer of `source` has a template; None where its files do not say (a hub name, no tokenizer)."""
    if source.path is None:
        return None
    if source.kind == "gguf":
        try:
            # The template stands behind the vocabulary, wherever that ends.
            found = read_values(source.path, ("tokenizer.chat_template",), limit=None)
            return bool(found.get("tokenizer.chat_template"))
        except (NotGGUFError, OSError):
            return None
    if any((source.path / name).exists() for name in _FILES):
        return True
    settings = source.path / "tokenizer_config.json"
    if not settings.exists():
        return has_chat_template(source.parent) if source.parent is not None else None
    try:
        return bool(read_object(settings, "model.name").get("chat_template"))
    except RequestError:
        return None
