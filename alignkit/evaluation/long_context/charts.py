"""Perplexity by length and retrieval by depth and length, drawn in the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignkit.evaluation.long_context.scores import Cell, LongScores

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

HEIGHT = 9
"""Lines of a curve."""
FLAT = 0.1
"""Nats that the height stands for at least: what differs by less is to look flat."""
STEP = 9
"""Columns from one length to the next."""
MARKS = {"before": ("○", "yellow"), "after": ("●", "green"), "score": ("●", "green")}
BOTH = "◉"
"""Where before and after fall on one place."""


def charts(before: LongScores | None, after: LongScores | None) -> list[RenderableType]:
    """A curve and a heat map for each of the two that is there."""
    sides = named(before, after)
    found: list[RenderableType] = []
    if any(len(scores.perplexity) > 1 for scores in sides.values()):
        found.append(_curve(sides))
    found += [_heat_map(name, scores) for name, scores in sides.items() if rows_of(scores)]
    return found


def named(before: LongScores | None, after: LongScores | None) -> dict[str, LongScores]:
    """The scores that are there, by what they are called: before and after, or score where there is one."""
    if before is not None and after is not None:
        return {"before": before, "after": after}
    one = after if after is not None else before
    return {} if one is None else {"score": one}


def rows_of(scores: LongScores) -> list[tuple[str, list[Cell]]]:
    """The lines of a heat map: passkeys by depth, then the other tasks; name and cells."""
    depths = sorted({cell.depth for cell in scores.passkey if cell.depth is not None})
    rows = [
        (f"passkey at {100 * depth:.0f}%", [cell for cell in scores.passkey if cell.depth == depth]) for depth in depths
    ]
    rows += [("key of several", scores.needles)] if scores.needles else []
    return rows + ([("variables", scores.tracking)] if scores.tracking else [])


def tokens(length: int) -> str:
    """A length in a few characters: 768, 2k, 128k."""
    return f"{length // 1024}k" if length >= 1024 and length % 1024 == 0 else str(length)


def _curve(sides: dict[str, LongScores]) -> RenderableType:
    from rich.text import Text

    lengths = sorted({one.length for scores in sides.values() for one in scores.perplexity})
    losses = [one.loss for scores in sides.values() for one in scores.perplexity if math.isfinite(one.loss)]
    low, high = (min(losses), max(losses)) if losses else (0.0, 0.0)
    if high - low < FLAT:
        low, high = (low + high - FLAT) / 2, (low + high + FLAT) / 2
    grid = [[(" ", "")] * (STEP * len(lengths)) for _ in range(HEIGHT)]
    for name, scores in sides.items():
        mark, colour = MARKS[name]
        for one in scores.perplexity:
            line = 0 if not math.isfinite(one.loss) else round((high - one.loss) / (high - low) * (HEIGHT - 1))
            column = STEP * lengths.index(one.length) + STEP // 2
            taken = grid[line][column][0] != " "
            grid[line][column] = (BOTH, "bold") if taken else (mark, colour)
    drawn = Text("perplexity by length in tokens (logarithmic)   ")
    for name in sides:
        drawn.append(f"{MARKS[name][0]} {name}  ", style=MARKS[name][1])
    for number, cells in enumerate(grid):
        value = math.exp(high - number * (high - low) / (HEIGHT - 1))
        drawn.append("\n")
        drawn.append(f"{value:>9.4g} ┤" if number % 2 == 0 else f"{'':>9} │")
        for character, style in cells:
            drawn.append(character, style=style)
    drawn.append("\n" + " " * 10 + "└" + "─" * (STEP * len(lengths)))
    drawn.append("\n" + " " * 11 + "".join(f"{tokens(length):^{STEP}}" for length in lengths) + "\n")
    return drawn


def _heat_map(name: str, scores: LongScores) -> Table:
    from rich import box
    from rich.table import Table

    rows = rows_of(scores)
    lengths = sorted({cell.length for _, cells in rows for cell in cells})
    title = "found, by length in tokens" if name == "score" else f"found {name}, by length in tokens"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="")
    table.add_column("")
    for length in lengths:
        table.add_column(tokens(length), justify="right", no_wrap=True)
    for called, cells in rows:
        table.add_row(called, *(_shade([cell for cell in cells if cell.length == length]) for length in lengths))
    return table


def _shade(cells: Sequence[Cell]) -> Text:
    from rich.text import Text

    asked = sum(cell.asked for cell in cells)
    if not asked:
        return Text("–", style="dim")
    share = sum(cell.found for cell in cells) / asked
    red, green = round(170 * (1 - share)) + 30, round(130 * share) + 30
    return Text(f"{100 * share:>4.0f}% ", style=f"white on rgb({red},{green},40)")
