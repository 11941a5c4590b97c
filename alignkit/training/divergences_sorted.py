"""Universal logit distillation: probabilities compared by rank, so that no token of one vocabulary needs a partner in
the other (Boizard et al. 2024, "Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss").

Letters: n positions, V the student's vocabulary, U the teacher's (or the k entries known of it).
"""

from __future__ import annotations

from torch import Tensor


def sorted_parts(p: Tensor, t: Tensor, tail: Tensor | None, *, sloped: bool) -> tuple[Tensor, Tensor | None]:
    """The sum over ranks of |p(rank) - t(rank)|, and its slope by the student's logits.

    Args:
        p: (n, V) the student's probabilities. t: (n, U) the teacher's; the shorter side counts as zeros beyond its end.
        tail: (n,) mass of the teacher beyond its U known entries; the student's mass beyond rank U is compared with it
            in one term, which is never more than the ranks' own terms would be. None: t is the whole distribution.

    Returns:
        (n,) in [0, 2], and (n, V) or None: a subgradient where two ranks are equal.
    """
    mine, order = p.sort(dim=-1, descending=True)  # (n, V)
    theirs = t.sort(dim=-1, descending=True).values  # (n, U)
    both = min(mine.shape[1], theirs.shape[1])
    gap = mine.clone()
    gap[:, :both] -= theirs[:, :both]
    value = gap[:, :both].abs().sum(-1) + theirs[:, both:].sum(-1)
    if tail is None:
        value += mine[:, both:].sum(-1)
    else:
        over = mine[:, both:].sum(-1) - tail
        value += over.abs()
        gap[:, both:] = over[:, None]
    if not sloped:
        return value, None
    sign = gap.sign_()
    u = sign.mul_(mine)
    u -= u.sum(-1, keepdim=True) * mine
    return value, mine.scatter_(-1, order, u)
