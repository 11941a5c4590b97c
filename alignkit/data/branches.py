"""A prompt with several answers as tokens: what preference losses, groups of samples and rankings are computed on.

What the answers share is held once (the trunk), so that a model can read it once. Pairs have two branches, the chosen
answer first; feedback has one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Branch:
    """One answer. ``scored[i]`` says whether token i belongs to the answer: what a template writes around it, or a
    piece of the prompt that was tokenised together with it, does not."""

    ids: list[int]
    scored: list[bool]

    @property
    def tokens(self) -> int:
        """Tokens that are scored."""
        return sum(self.scored)


@dataclass(frozen=True, slots=True)
class Branched:
    """A prompt and its answers. Row b of the model's reading is ``trunk + branches[b].ids``; the trunk holds at least
    one token, and nothing in it is scored. ``where`` is for people: ``"pairs.jsonl line 17"``."""

    trunk: list[int]
    branches: tuple[Branch, ...]
    where: str
    desirable: bool | None = None
    """Of feedback: whether the answer was wanted."""
    margin: float | None = None
    """Of pairs with scores: the chosen answer's score less the rejected one's."""
    score: float | None = None
    """Of a scored answer: what it is worth."""
    plain: bool = False
    """Whether no template wrote it."""
    group: str | None = None
    """Of a pair: which part of a benchmark it belongs to."""

    def __len__(self) -> int:
        """Tokens with the trunk counted once."""
        return len(self.trunk) + sum(len(branch.ids) for branch in self.branches)
