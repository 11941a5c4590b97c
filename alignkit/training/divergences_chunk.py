"""One chunk of positions: what they cost against a teacher's targets, and the slope of that by the student's logits.

Two buffers of a chunk's size hold all of it: the student's logits, and the teacher's log-probabilities that turn into
the slope. Temporaries are the size of a tile of the vocabulary, small enough for a core's cache.

Letters: n positions of the chunk, V the student's vocabulary, U the teacher's where it differs, k listed entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignkit.training.divergences import Objective, terms
from alignkit.training.divergences_sorted import sorted_parts
from alignkit.training.divergences_teacher import (
    Listed,
    listed_entries,
    matched_entries,
    reordered,
    same_temperature,
    spread_entries,
    teacher_log_probs,
    tiles,
    translated,
)
from alignkit.training.targets import (
    LEAST_LOG_PROB,
    DenseTargets,
    MatchedTargets,
    SampledTargets,
    Targets,
    TopKTargets,
)
from alignkit.training.token_scores import Workspace


@dataclass
class Chunk:
    """What is known of a chunk: `divergence` (n,), `nll` (n,) where it was asked for, `slope` (n, V) of
    ``objective.scale * divergence + objective.ce * nll`` by the logits where it was asked for."""

    divergence: Tensor
    nll: Tensor | None
    slope: Tensor | None


def score_chunk(
    logits: Tensor, labels: Tensor, targets: Targets, objective: Objective, space: Workspace, *, sloped: bool
) -> Chunk:
    """Cost and slope of n positions.

    Args:
        logits: (n, V) of the student at temperature 1, fp32 or wider; kept as they are.
        labels: (n,) token ids below V.
        targets: of these n positions.
        sloped: whether the slope is wanted; it lies in `space` until the next call.
    """
    student = _Student.of(logits, labels, objective)
    vocabulary = logits.shape[1]
    if isinstance(targets, SampledTargets):
        return _sampled(student, targets, objective, space, sloped)
    if objective.kind == "uld":
        return _sorted(student, targets, objective, space, sloped)
    if isinstance(targets, TopKTargets):
        if targets.ids.shape[1] < vocabulary:
            return _listed(student, *listed_entries(targets, objective), objective, space, sloped)
        log_t = spread_entries(targets, objective, logits, space)
    elif isinstance(targets, MatchedTargets):
        if isinstance(targets.teacher, TopKTargets):
            return _listed(
                student, *listed_entries(translated(targets, targets.teacher), objective), objective, space, sloped
            )
        if len(targets.student_ids) < vocabulary:
            return _listed(
                student, *matched_entries(targets, targets.teacher, objective, space), objective, space, sloped
            )
        log_t = reordered(targets, targets.teacher, objective, logits, space)
    else:
        log_t = teacher_log_probs(targets, objective.temperature, space, vocabulary)
    return _dense(student, log_t, objective, sloped)


@dataclass
class _Student:
    """The student's logits (n, V) and what every form needs of them."""

    logits: Tensor
    labels: Tensor  # (n, 1)
    top: Tensor  # (n, 1) the largest logit
    nll: Tensor | None  # (n,)
    lse: Tensor | None  # (n, 1) of logits - top at temperature 1

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor, objective: Objective) -> _Student:
        top = logits.amax(-1, keepdim=True)
        found = cls(logits, labels[:, None], top, None, None)
        if objective.ce and objective.temperature != 1.0:
            found.finish(found.log_total(1.0))
        return found

    def finish(self, lse: Tensor) -> None:
        """Note the normaliser at temperature 1, (n, 1); the labels' cost follows."""
        self.lse = lse
        self.nll = (lse + self.top - self.logits.gather(-1, self.labels)).squeeze(-1)

    def log_total(self, temperature: float) -> Tensor:
        """(n, 1) log of the sum of exp((z - top) / T)."""
        total = torch.zeros_like(self.top)
        for tile in tiles(self.logits):
            total += self.shifted(tile, temperature).exp_().sum(-1, keepdim=True)
        return total.log_()

    def shifted(self, tile: slice, temperature: float) -> Tensor:
        """(z - top) / T of a tile, a new tensor."""
        z = self.logits[:, tile] - self.top
        return z if temperature == 1.0 else z.div_(temperature)

    def add_ce(self, slope: Tensor, objective: Objective) -> None:
        """Add ce (p1 - onehot) to the slope; at temperature 1 the p1 part is in it already."""
        if not objective.ce:
            return
        if objective.temperature != 1.0:
            assert self.lse is not None
            for tile in tiles(slope):
                slope[:, tile].add_(self.shifted(tile, 1.0).sub_(self.lse).exp_(), alpha=objective.ce)
        slope.scatter_add_(-1, self.labels, torch.full_like(self.top, -objective.ce))


def _dense(student: _Student, log_t: Tensor, objective: Objective, sloped: bool) -> Chunk:
    """Against log-probabilities (n, V) at the objective's temperature; they turn into the slope."""
    temperature = objective.temperature
    log_total = student.log_total(temperature)
    if temperature == 1.0:
        student.finish(log_total)
    value = torch.zeros_like(log_total[:, 0])
    c = torch.zeros_like(value)
    for tile in tiles(log_t):
        log_p = student.shifted(tile, temperature).sub_(log_total)
        part, u, part_c = terms(objective, log_p, log_t[:, tile])
        value += part
        c += part_c
        if sloped:
            log_t[:, tile] = u
    if not sloped:
        return Chunk(value, student.nll, None)
    # A second look at each tile, when c is known: p costs one exponential more, and no third buffer.
    share = objective.scale / temperature
    weights = c[:, None] * -share + (objective.ce if temperature == 1.0 else 0.0)  # (n, 1)
    for tile in tiles(log_t):
        p = student.shifted(tile, temperature).sub_(log_total).exp_()
        log_t[:, tile].mul_(share).addcmul_(p, weights)
    student.add_ce(log_t, objective)
    return Chunk(value, student.nll, log_t)


def _listed(
    student: _Student,
    where: Listed,
    log_t: Tensor,  # (n, k + 1): the entries', then the tail's
    objective: Objective,
    space: Workspace,
    sloped: bool,
) -> Chunk:
    """Against listed entries and one event for all other tokens."""
    temperature = objective.temperature
    e = _exponentials(student, temperature, space)  # (n, V)
    mine = where.read(e)  # (n, k)
    where.clear(e, mine)
    tail = e.sum(-1, keepdim=True)  # summed, not 1 - sum: a small tail keeps its digits
    present = where.present.expand_as(mine)
    total = tail + (mine * present).sum(-1, keepdim=True)
    log_total = total.log()
    if temperature == 1.0:
        student.finish(log_total)
    log_mine = (where.read(student.logits) - student.top) / temperature - log_total
    tiny = torch.finfo(e.dtype).tiny
    log_tail = tail.clamp_min(tiny).log() - log_total
    log_p = torch.cat([log_mine.masked_fill_(~present, LEAST_LOG_PROB), log_tail], -1)  # (n, k + 1)
    value, u, c = terms(objective, log_p, log_t)
    if not sloped:
        return Chunk(value, student.nll, None)
    u -= c[:, None] * log_p.exp()
    share = objective.scale / temperature
    ce = objective.ce if temperature == 1.0 else 0.0
    # Within the tail the student's probabilities keep their ratios: one factor moves them all.
    e *= u[:, -1:] * share / tail.clamp_min(tiny) + ce / total
    where.fill(e, u[:, :-1] * share + log_p[:, :-1].exp() * ce)
    student.add_ce(e, objective)
    return Chunk(value, student.nll, e)


def _sampled(student: _Student, targets: SampledTargets, objective: Objective, space: Workspace, sloped: bool) -> Chunk:
    """Against tokens drawn from the teacher: the forward KL's gradient p - t with an unbiased t."""
    if objective.kind != "forward-kl":
        raise ValueError(f"sampled targets serve forward-kl, which is linear in the teacher; not {objective.kind}")
    same_temperature(targets, objective)
    temperature = objective.temperature
    e = _exponentials(student, temperature, space)  # (n, V)
    total = e.sum(-1, keepdim=True)
    log_total = total.log()
    if temperature == 1.0:
        student.finish(log_total)
    ids, weights = targets.ids.long(), targets.weights.to(e.dtype)  # (n, k)
    log_p = (student.logits.gather(-1, ids) - student.top) / temperature - log_total
    if targets.log_probs is None:
        value = -torch.linalg.vecdot(weights, log_p)
    else:
        value = torch.linalg.vecdot(weights, targets.log_probs.to(e.dtype).clamp_min(LEAST_LOG_PROB) - log_p)
    if not sloped:
        return Chunk(value, student.nll, None)
    share = objective.scale / temperature
    ce = objective.ce if temperature == 1.0 else 0.0
    e *= (weights.sum(-1, keepdim=True) * share + ce) / total
    e.scatter_add_(-1, ids, weights * -share)
    student.add_ce(e, objective)
    return Chunk(value, student.nll, e)


def _sorted(student: _Student, targets: Targets, objective: Objective, space: Workspace, sloped: bool) -> Chunk:
    """Sorted probabilities against sorted probabilities, whatever token each belongs to."""
    temperature = objective.temperature
    e = _exponentials(student, temperature, space)
    total = e.sum(-1, keepdim=True)
    if temperature == 1.0:
        student.finish(total.log())
    p = e.div_(total)
    if isinstance(targets, TopKTargets):
        _, log_t = listed_entries(targets, objective)
        t, tail = log_t[:, :-1].exp(), log_t[:, -1].exp()
        value, slope = sorted_parts(p, t, tail, sloped=sloped)
    elif isinstance(targets, DenseTargets):
        t = teacher_log_probs(targets, temperature, space, None).exp_()
        value, slope = sorted_parts(p, t, None, sloped=sloped)
    else:
        raise ValueError("sorted probabilities are compared with those of a teacher's whole vocabulary or its top k")
    if slope is None:
        return Chunk(value, student.nll, None)
    slope *= objective.scale / temperature
    if temperature == 1.0:
        slope.add_(p, alpha=objective.ce)
    student.add_ce(slope, objective)
    return Chunk(value, student.nll, slope)


def _exponentials(student: _Student, temperature: float, space: Workspace) -> Tensor:
    """exp((z - top) / T), (n, V), in the workspace."""
    logits = student.logits
    e = space.take("e", len(logits), logits.shape[1], logits.dtype, logits.device)
    torch.sub(logits, student.top, out=e)
    return (e if temperature == 1.0 else e.div_(temperature)).exp_()
