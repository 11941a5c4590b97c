"""One text in the tokens of two vocabularies: where both have read the same bytes, what follows can be compared.

After the idea of GOLD (Patiño et al. 2025, "Unlocking On-Policy Distillation for Any Model Family"): tokens are grouped
into the shortest spans that begin and end together. At a span's start both models predict from the same text: there
their distributions are compared on the tokens that both have (``training.targets.MatchedTargets``). Where a span has
more than one token on either side, the rest of it is compared as a whole: by the chain rule the product of its tokens'
probabilities is the probability of its text, and "this text or another" are two events on both sides.

Letters: K tokens of the student, S spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Span(NamedTuple):
    """Tokens `student` [start, stop) and `teacher` [start, stop) of the same bytes."""

    student: tuple[int, int]
    teacher: tuple[int, int]

    @property
    def single(self) -> bool:
        """Whether it is one token on both sides."""
        return self.student[1] - self.student[0] == 1 == self.teacher[1] - self.teacher[0]


def align(student: Sequence[bytes], teacher: Sequence[bytes]) -> list[Span]:
    """The shortest spans of two token sequences of one text, in order.

    They end where the texts part (one may be cut off). A space before the first word that only one side writes (as
    SentencePiece does) is no difference. Tokens without bytes belong to the span that follows, at the end to none.
    """
    ours, theirs = _without_space(student, teacher)
    text, other = b"".join(ours), b"".join(theirs)
    same = next((i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other)))
    spans: list[Span] = []
    first, second = _ends(ours, same), _ends(theirs, same)
    begun = (0, 0)
    for place in sorted(first.keys() & second.keys()):
        stops = (first[place], second[place])
        spans.append(Span((begun[0], stops[0]), (begun[1], stops[1])))
        begun = stops
    return spans


def span_divergence(log_probs: Tensor, span: Tensor, teacher: Tensor) -> Tensor:
    """(S,) KL in nats between "this text or another" of the teacher and of the student.

    Args:
        log_probs: (K,) the student's log-probabilities of its tokens in these spans, with gradient.
        span: (K,) which span each belongs to.
        teacher: (S,) the teacher's log-probability of each span's text: the sum over its own tokens.
    """
    p = log_probs.new_zeros(len(teacher)).index_add(0, span, log_probs)  # (S,) log
    q = teacher.to(p).clamp(max=0.0)
    other_p, other_q = _other(p), _other(q)
    return q.exp() * (q - p) + other_q.exp() * (other_q - other_p)


def _other(log_p: Tensor) -> Tensor:
    """log(1 - p); a text that is certain leaves what its format can tell from nothing."""
    return (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).eps).log()


def _ends(pieces: Sequence[bytes], limit: int) -> dict[int, int]:
    """Byte offset at which a token ends, up to `limit`, to how many tokens have been read there (the fewest)."""
    found: dict[int, int] = {}
    place = 0
    for count, piece in enumerate(pieces, start=1):
        place += len(piece)
        if place > limit:
            break
        if piece:
            found[place] = count
    return found


def _without_space(student: Sequence[bytes], teacher: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    sides = [list(student), list(teacher)]
    begins = [b"".join(side[:2])[:1] == b" " for side in sides]
    if begins[0] != begins[1]:
        longer = sides[begins.index(True)]
        index = next(i for i, piece in enumerate(longer) if piece)
        longer[index] = longer[index][1:]
    return sides[0], sides[1]
