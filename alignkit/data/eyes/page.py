"""Looks as one HTML page that needs nothing else: no script, no font, no picture; light and dark as the reader's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from alignkit.data.eyes.screen import BREAK, counts, title, visible
from alignkit.data.eyes.views import Look, Piece, Turn

STYLE = """\
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fcfcfb; --soft: #6b7280; --line: #e2e4e8;
  --trained: #d9f2dd; --trained-ink: #0b4a1c; --special: #7a3e9d; --fault: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #15181c; --soft: #9099a5; --line: #2c323a;
  --trained: #173a22; --trained-ink: #b9f0c6; --special: #d3a4f0; --fault: #ff8a80; } }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: var(--ink); background: var(--paper);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.2rem; } h2 { font-size: 1rem; margin: 2.2rem 0 .3rem; }
h3 { font-size: .9rem; margin: .8rem 0 .2rem; }
p { margin: .2rem 0; color: var(--soft); } p.fault { color: var(--fault); }
table { border-collapse: collapse; width: 100%; border-top: 1px solid var(--line); }
td { vertical-align: top; border-bottom: 1px solid var(--line); padding: .35rem .6rem; }
td.role { width: 8rem; text-align: right; font-weight: 600; }
td.count { width: 5rem; text-align: right; color: var(--soft);
  font-variant-numeric: tabular-nums; }
td.text { white-space: pre-wrap; overflow-wrap: anywhere;
  font: 13px/1.55 ui-monospace, monospace; color: var(--soft); }
td.text.bare { color: var(--ink); }
.trained { background: var(--trained); color: var(--trained-ink); border-radius: 2px; }
.special { color: var(--special); font-weight: 700; } .break { opacity: .45; }
"""


def page(heading: str, said: Sequence[str], looks: Sequence[Look], *, tokens: bool) -> str:
    """The whole document. ``said``: lines below the heading; everything that comes from data is escaped."""
    key = (
        'Counts are tokens. <span class="trained">Trained</span>; all else is context, without loss. '
        '<span class="special">Special tokens</span>.'
        if tokens
        else "Counts are characters: tokens and what is trained take a model."
    )
    body = "\n".join(part for look in looks for part in _look(look, tokens))
    lines = "\n".join(f"<p>{escape(line)}</p>" for line in said)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(heading)}</title>\n'
        f"<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{escape(heading)}</h1>\n{lines}\n<p>{key}</p>\n"
        f"{body}\n</body>\n</html>\n"
    )


def _look(look: Look, tokens: bool) -> Iterator[str]:
    yield f"<h2>{escape(title(look, tokens))}</h2>"
    yield from (f"<p>{escape(visible(fact))}</p>" for fact in look.facts)
    if look.trouble:
        yield f'<p class="fault">{escape(visible(look.trouble))}</p>'
    for view in look.views:
        if len(look.views) > 1:
            yield f"<h3>{escape(f'{view.name}: {counts(view, tokens)}')}</h3>"
        yield "<table>"
        yield from (_turn(turn, tokens) for turn in view.turns)
        yield "</table>"


def _turn(turn: Turn, tokens: bool) -> str:
    weights = [f"{weight:g}" for weight in turn.weights] if any(weight != 1 for weight in turn.weights) else []
    below = f"<br>loss ×{'/'.join(weights)}" if weights else ""
    count = turn.tokens if tokens else turn.characters
    text = "".join(_piece(piece) for piece in turn.pieces)
    bare = "" if tokens else " bare"
    return (
        f'<tr><td class="role">{escape(visible(turn.role))}</td><td class="count">{count:,}{below}</td>'
        f'<td class="text{bare}">{text}</td></tr>'
    )


def _piece(piece: Piece) -> str:
    marks = " ".join(name for name, on in (("trained", piece.trained), ("special", piece.special)) if on)
    mark = f'<span class="break">{BREAK}</span>\n'
    text = mark.join(escape(visible(line)) for line in piece.text.split("\n"))
    return f'<span class="{marks}">{text}</span>' if marks else text
