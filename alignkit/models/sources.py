"""What the rest of alignkit asks about a model before it is loaded. No torch behind any of it."""

from __future__ import annotations

from alignkit.models.chat_template import has_chat_template
from alignkit.models.check import check, under
from alignkit.models.classifying import scorer_faults
from alignkit.models.context import context_length
from alignkit.models.identity import identity
from alignkit.models.locating import Source, locate

__all__ = ["Source", "check", "context_length", "has_chat_template", "identity", "locate", "scorer_faults", "under"]
