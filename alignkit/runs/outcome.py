"""What a stage hands back when it is done; the run's manifest is made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(kw_only=True)
class Outcome:
    """The result of a stage.

    ``result`` is what the command line prints: RUN/model for weights, a file for a stage that makes data.
    ``metrics`` is JSON: ``before``, ``after``, ``training``, and ``headline`` with one name and value for listings.
    ``resolved`` says what every `auto` became. ``digests`` are SHA-256 of files below the run's directory that the
    stage took while it wrote them, so that gigabytes need not be read again.
    ``stopped_by`` names the rule that ended the stage before its last step; None: it ran to its end.
    """

    result: Path
    metrics: dict[str, Any] = field(default_factory=dict)
    resolved: dict[str, Any] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    stopped_by: str | None = None
