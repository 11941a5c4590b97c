"""The rich console that every table goes through: what stands in a cell steers no terminal."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from alignkit.console.plain import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.segment import Segment


def plain_console(**options: Any) -> Console:
    """A rich console with these options; highlighting is off."""
    console: Console = _class()(highlight=False, **options)
    return console


@lru_cache(maxsize=1)
def _class() -> Any:
    from rich.console import Console
    from rich.segment import Segment

    class PlainConsole(Console):
        """Rich's, which lets ESC and the like in a text through. Its own colours are added after this, from styles."""

        def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else printable(text), style, control)

    return PlainConsole
