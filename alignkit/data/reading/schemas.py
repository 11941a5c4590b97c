"""The columns of the tables of one place: those of its first file have to stand in every other one."""

from __future__ import annotations

from collections.abc import Sequence

from alignkit.data.reading.faults import unreadable
from alignkit.data.reading.tables import header_fault
from alignkit.data.rows import Unreadable


class Schemas:
    """Files of one directory or pattern are shards of one data set. A file that lacks a column of the first is another
    data set, and is named instead of being read with holes; columns of its own do no harm."""

    def __init__(self) -> None:
        self._first: tuple[str, tuple[str, ...]] | None = None

    def fault(self, name: str, columns: Sequence[str]) -> Unreadable | None:
        """What is wrong with the columns of the file ``name``; None: nothing."""
        if (twice := header_fault(name, columns)) is not None:
            return twice
        if self._first is None:
            self._first = (name, tuple(columns))
            return None
        first, expected = self._first
        missing = [column for column in expected if column not in columns]
        if not missing:
            return None
        lacks = ", ".join(f"`{column}`" for column in missing[:5])
        what = f"lacks {'the columns' if len(missing) > 1 else 'the column'} {lacks} that {first} has"
        what += f"; it has {', '.join(columns) or 'none'}"
        instead = "Mend it, or give each file as a source of its own: data=[first,second]."
        return unreadable(name, what, instead, rest=True)
