"""A teacher's targets as numbers of a chunk: log-probabilities of a whole vocabulary, or of listed entries and a tail.

Letters: n positions of the chunk, V the student's vocabulary, U the teacher's, M matched tokens, k listed entries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from alignkit.training.divergences import Objective
from alignkit.training.targets import (
    LEAST_LOG_PROB,
    DenseTargets,
    FullTargets,
    HeadTargets,
    MatchedTargets,
    MeanTargets,
    SampledTargets,
    Targets,
    TopKTargets,
)
from alignkit.training.token_scores import Workspace

LEAST_TAIL = 1e-7
"""A tail that is found as 1 minus a sum is known to about this much; less would make a divergence of it."""
TILE_VALUES = 2**17
"""Values of a tile on a CPU: half a megabyte, so that the passes of a divergence over it stay in the cache."""
GPU_TILE_VALUES = 2**24


class Listed:
    """Where the k listed entries of each position stand: ids (n, k); absent ones are not read and not written."""

    def __init__(self, ids: Tensor, present: Tensor) -> None:
        self.ids, self.present = ids, present

    def read(self, matrix: Tensor) -> Tensor:
        return matrix.gather(-1, self.ids)

    def clear(self, matrix: Tensor, values: Tensor) -> None:
        # x - x is 0 exactly; an absent entry takes nothing from whichever token its id names.
        matrix.scatter_add_(-1, self.ids, -values * self.present)

    def fill(self, matrix: Tensor, values: Tensor) -> None:
        matrix.scatter_add_(-1, self.ids, values * self.present)


class Shared(Listed):
    """The same tokens (M,) at every position."""

    def __init__(self, ids: Tensor) -> None:
        super().__init__(ids, torch.ones((), dtype=torch.bool, device=ids.device))

    def read(self, matrix: Tensor) -> Tensor:
        return matrix.index_select(-1, self.ids)

    def clear(self, matrix: Tensor, values: Tensor) -> None:
        matrix.index_fill_(-1, self.ids, 0.0)

    def fill(self, matrix: Tensor, values: Tensor) -> None:
        matrix.index_copy_(-1, self.ids, values)


def tiles(matrix: Tensor) -> Iterator[slice]:
    """Ranges of columns of an (n, V) matrix."""
    values = TILE_VALUES if matrix.device.type == "cpu" else GPU_TILE_VALUES
    width = max(64, values // max(1, len(matrix)))
    for start in range(0, matrix.shape[1], width):
        yield slice(start, start + width)


def teacher_log_probs(targets: DenseTargets, temperature: float, space: Workspace, vocabulary: int | None) -> Tensor:
    """(n, V) of the teacher at a temperature, in the workspace; of its first `vocabulary` tokens only, if given."""
    if isinstance(targets, MeanTargets):
        whole = _log_probs(targets.heads[0], temperature, space, vocabulary, "teacher").add_(
            math.log(targets.weights[0])
        )
        for head, weight in zip(targets.heads[1:], targets.weights[1:], strict=True):
            other = _log_probs(head, temperature, space, vocabulary, "teacher beside").add_(math.log(weight))
            torch.logaddexp(whole, other, out=whole)
        return whole
    return _log_probs(targets, temperature, space, vocabulary, "teacher")


def _log_probs(
    targets: HeadTargets | FullTargets, temperature: float, space: Workspace, vocabulary: int | None, name: str
) -> Tensor:
    if isinstance(targets, FullTargets):
        given = targets.log_probs[:, :vocabulary]
        z = space.take(name, len(given), given.shape[1], torch.promote_types(given.dtype, torch.float32), given.device)
        z.copy_(given).clamp_min_(LEAST_LOG_PROB)
    else:
        z = head_logits(targets.hidden, targets.weight[:vocabulary], _cut(targets.bias, vocabulary), space, name)
        targets.rule.apply(z)
    if temperature != 1.0:
        z.div_(temperature)
    top = z.amax(-1, keepdim=True)
    total = torch.zeros_like(top)
    for tile in tiles(z):
        total += (z[:, tile] - top).exp_().sum(-1, keepdim=True)
    return z.sub_(top.add_(total.log_()))


def head_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, space: Workspace, name: str) -> Tensor:
    """The head's product (n, V), in fp32 at least, in the workspace under `name`."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    z = space.take(name, len(hidden), len(weight), wide, hidden.device)
    if weight.dtype == wide:
        torch.mm(hidden.to(wide), weight.t(), out=z)
        return z if bias is None else z.add_(bias)
    product = space.take("product", len(hidden), len(weight), weight.dtype, hidden.device)
    torch.mm(hidden.to(weight.dtype), weight.t(), out=product)
    if bias is not None:
        product += bias
    return z.copy_(product)


def listed_entries(targets: TopKTargets, objective: Objective) -> tuple[Listed, Tensor]:
    """Where the entries stand, and log-probabilities (n, k + 1) with the tail's last."""
    same_temperature(targets, objective)
    if targets.tail == "renormalised" and objective.kind == "reverse-kl":
        raise ValueError("a teacher whose tail is said to be impossible has no reverse-kl: it is infinite")
    given = targets.log_probs.to(torch.promote_types(targets.log_probs.dtype, torch.float32))
    present = ~given.isneginf()
    if targets.tail == "renormalised":
        given = given.log_softmax(-1)
        log_tail = torch.full_like(given[:, :1], LEAST_LOG_PROB)
    elif targets.log_tail is None:
        log_tail = (1.0 - given.exp().sum(-1, keepdim=True)).clamp_min_(LEAST_TAIL).log_()
    else:
        log_tail = targets.log_tail[:, None].to(given.dtype)
    return Listed(targets.ids.long(), present), torch.cat([given, log_tail], -1).clamp_min_(LEAST_LOG_PROB)


def spread_entries(targets: TopKTargets, objective: Objective, logits: Tensor, space: Workspace) -> Tensor:
    """A top-k of the whole vocabulary, token by token (n, V)."""
    same_temperature(targets, objective)
    log_t = space.take("teacher", len(logits), logits.shape[1], logits.dtype, logits.device)
    return log_t.scatter_(-1, targets.ids.long(), targets.log_probs.to(log_t.dtype).clamp_min(LEAST_LOG_PROB))


def translated(matched: MatchedTargets, teacher: TopKTargets) -> TopKTargets:
    """A teacher's top-k in the student's tokens; entries without a match join the tail."""
    size = 1 + max(int(ids.max()) for ids in (teacher.ids, matched.teacher_ids) if ids.numel())
    table = torch.full((size,), -1, dtype=torch.long, device=teacher.ids.device)
    table[matched.teacher_ids] = matched.student_ids
    ids = table[teacher.ids.long()]  # (n, k)
    return _absent(replace(teacher, ids=ids.clamp_min(0)), ids < 0)


def matched_entries(
    matched: MatchedTargets, teacher: DenseTargets, objective: Objective, space: Workspace
) -> tuple[Listed, Tensor]:
    """The matched tokens' log-probabilities, then that of all others, (n, M + 1)."""
    log_t = teacher_log_probs(teacher, objective.temperature, space, None)  # (n, U)
    listed = log_t.index_select(-1, matched.teacher_ids)
    rest = log_t.exp_().index_fill_(-1, matched.teacher_ids, 0.0).sum(-1, keepdim=True)
    both = torch.cat([listed, rest.clamp_min_(LEAST_TAIL).log_()], -1)
    return Shared(matched.student_ids), both.clamp_min_(LEAST_LOG_PROB)


def reordered(
    matched: MatchedTargets, teacher: DenseTargets, objective: Objective, logits: Tensor, space: Workspace
) -> Tensor:
    """Where every token of the student has a match: the teacher's probabilities of those, renormalised, (n, V)."""
    log_t = teacher_log_probs(teacher, objective.temperature, space, None)
    listed = log_t.index_select(-1, matched.teacher_ids).log_softmax(-1)
    mine = space.take("matched", len(logits), logits.shape[1], logits.dtype, logits.device)
    return mine.index_copy_(-1, matched.student_ids, listed.to(mine.dtype))


def without_padding(targets: Targets, vocabulary: int) -> Targets:
    """Listed targets whose ids are all below `vocabulary`: entries beyond it (a longer table's padding) drop out, a
    top-k's into its tail. Other forms are cut where their logits are made."""
    if isinstance(targets, TopKTargets):
        beyond = targets.ids >= vocabulary
        return _absent(replace(targets, ids=targets.ids.clamp(max=vocabulary - 1)), beyond)
    if isinstance(targets, SampledTargets):
        weights = targets.weights.masked_fill(targets.ids >= vocabulary, 0.0)
        return replace(targets, ids=targets.ids.clamp(max=vocabulary - 1), weights=weights)
    return targets


def _absent(targets: TopKTargets, gone: Tensor) -> TopKTargets:
    """Entries that are gone (n, k) join the tail."""
    log_tail = targets.log_tail
    if log_tail is not None:
        log_tail = torch.logaddexp(log_tail, targets.log_probs.masked_fill(~gone, -math.inf).logsumexp(-1))
    return replace(targets, log_probs=targets.log_probs.masked_fill(gone, -math.inf), log_tail=log_tail)


def same_temperature(targets: TopKTargets | SampledTargets, objective: Objective) -> None:
    """Raise ValueError where listed targets were taken at another temperature than the objective's."""
    if targets.temperature != objective.temperature:
        raise ValueError(
            f"the targets were taken at temperature {targets.temperature}, the objective asks for "
            f"{objective.temperature}: without the whole vocabulary one does not follow from the other"
        )


def _cut(bias: Tensor | None, vocabulary: int | None) -> Tensor | None:
    return None if bias is None else bias[:vocabulary]


def width_of(targets: Targets) -> int:
    """Columns of the (N, U) matrix that targets stand for; 0 where they only list entries."""
    if isinstance(targets, MatchedTargets):
        return 0 if isinstance(targets.teacher, TopKTargets) else width_of(targets.teacher)
    if isinstance(targets, MeanTargets):
        return max(len(head.weight) for head in targets.heads)
    if isinstance(targets, HeadTargets):
        return len(targets.weight)
    return targets.log_probs.shape[1] if isinstance(targets, FullTargets) else 0
