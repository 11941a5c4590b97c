"""The rich console that every table goes through: what stands in a cell steers no terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment

from alignkit.console.plain import printable


class PlainConsole(Console):
    """Rich's, which lets ESC and the like in a text through. Its own colours are added after this, from styles."""

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        """The pieces of a renderable, each with what steers a terminal spelled out."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)
