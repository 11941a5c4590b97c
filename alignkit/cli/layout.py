"""How answers look on stdout: tables for a person at a terminal, plain columns for a pipe.

On a terminal rich lays a table out for its width. In a pipe every row is one line, whatever its length:
nothing is wrapped, cut or framed, so that `grep` and `awk` see what a person sees.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Literal

from alignkit.console.plain import printable

GAP = "  "


def clean(text: object) -> str:
    """Text that cannot move the cursor or start a new line: control characters are shown as `?`."""
    return "".join(sign if sign.isprintable() else "?" for sign in str(text))


def age(seconds: float) -> str:
    """A length of time in one unit: `12 s`, `5 min`, `3 h`, `4 d`, `2 y`."""
    steps = ((60, "s", 1), (3600, "min", 60), (48 * 3600, "h", 3600), (730 * 86400, "d", 86400))
    whole = max(0.0, seconds)
    for limit, unit, size in steps:
        if whole < limit:
            return f"{int(whole // size)} {unit}"
    return f"{int(whole // (365 * 86400))} y"


def size(count: int) -> str:
    """Bytes in decimal units: `512 B`, `1.2 kB`, `12 MB`."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.1f} {unit}" if unit != "B" and value < 9.95 else f"{value:.0f} {unit}"


def number(value: object) -> str:
    """A metric as a person reads it: four significant digits; `-` for what is not there."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return clean(value)


def columns(rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), indent: str = "") -> list[str]:
    """Rows as lines of aligned columns, without trailing blanks. ``right``: columns that are flush right."""
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append((indent + GAP.join(cells)).rstrip())
    return lines


def show_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), wrap: Sequence[int] = ()
) -> None:
    """A table as the answer of a command, on stdout. ``wrap``: columns that may be folded on a narrow terminal."""
    if not sys.stdout.isatty():
        print(printable("\n".join(columns([header, *rows], right=right))))
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from alignkit.console.tables import plain_console

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column, name in enumerate(header):
        justify: Literal["left", "right"] = "right" if column in right else "left"
        table.add_column(name, no_wrap=column not in wrap, overflow="fold", justify=justify)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    plain_console().print(table)
