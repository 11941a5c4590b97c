"""Answers become rows with several answers, so that a prompt is read once for all of its answers.

Letters: A answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from alignkit.data.branches import Branch, Branched
from alignkit.rollouts.rollout import Rolled


def branched(answers: Sequence[Rolled]) -> list[Branched]:
    """Answers as rows; neighbours that answer the same prompt share their trunk. All of their tokens are scored."""
    rows = []
    for _, run in groupby(answers, key=lambda one: (one.prompt, one.trunk)):
        own = list(run)
        branches = tuple(Branch(one.ids, [True] * len(one.ids)) for one in own)
        rows.append(Branched(trunk=own[0].trunk, branches=branches, where=own[0].where))
    return rows


def micro_batches(answers: Sequence[Rolled], numbers: Sequence[int], size: int) -> list[list[int]]:
    """``numbers`` (places in ``answers``) cut into parts of at most ``size`` answers, one forward pass each.

    Answers to one prompt stand together in a part, and come into one part where they are ``size`` or fewer. Prompts of
    similar length go together, the longest first: if memory does not suffice, that shows in the first part. What is in
    a part follows from which answers there are, whatever their order.
    """
    chosen = [answers[number] for number in sorted(numbers)]
    rows = branched(chosen)
    places = iter(sorted(numbers))
    own = [[next(places) for _ in row.branches] for row in rows]
    return [[own[row][branch] for row, branch in part] for part in cut(rows, size)]


def cut(rows: Sequence[Branched], size: int, tokens: int | None = None) -> list[list[tuple[int, int]]]:
    """Parts of at most ``size`` answers, each as (row, branch); see `micro_batches`.

    ``tokens``: nor more tokens in a part, a trunk counted once, where it has more answers than one.
    """
    if size < 1:
        raise ValueError(f"{size} answers go through the model at once")
    room = tokens if tokens is not None else sum(map(len, rows))
    pieces = [(row, own) for row, one in enumerate(rows) for own in _pieces(one, size, room)]
    pieces.sort(key=lambda piece: -max(_length(rows[piece[0]], [branch]) for branch in piece[1]))
    parts: list[list[tuple[int, int]]] = []
    held = 0
    for row, branches in pieces:
        more = _length(rows[row], branches)
        if not parts or len(parts[-1]) + len(branches) > size or held + more > room:
            parts.append([])
            held = 0
        parts[-1] += [(row, branch) for branch in branches]
        held += more
    return parts


def _pieces(row: Branched, size: int, room: int) -> list[list[int]]:
    """A row's branches in turn, as many together as may be."""
    pieces: list[list[int]] = []
    for branch in range(len(row.branches)):
        if not pieces or len(pieces[-1]) == size or _length(row, [*pieces[-1], branch]) > room:
            pieces.append([])
        pieces[-1].append(branch)
    return pieces


def _length(row: Branched, branches: Sequence[int]) -> int:
    """Tokens of the trunk and of these branches."""
    return len(row.trunk) + sum(len(row.branches[branch].ids) for branch in branches)
