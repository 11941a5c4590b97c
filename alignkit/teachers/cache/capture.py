"""From a teacher's targets to records: what of the whole distribution is kept.

Letters: N positions, n of a chunk, V vocabulary, k entries.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from alignkit.errors import RunError
from alignkit.teachers.cache.layout import Layout
from alignkit.teachers.cache.record import Record, drawn, joined, top_k
from alignkit.training.divergences_teacher import teacher_log_probs
from alignkit.training.targets import FullTargets, HeadTargets, MeanTargets, Targets, TopKTargets
from alignkit.training.token_scores import CHUNK_BYTES, GPU_FACTOR, Workspace


def captured(
    targets: Targets, layout: Layout, digests: Sequence[bytes], counts: Sequence[int], *, seed: int, space: Workspace
) -> list[Record]:
    """The record of each row of a batch.

    Args:
        targets: of the batch's N positions; a server's already hold the likeliest tokens only.
        digests, counts: of each row: its digest and its positions; they sum to N.
        seed: of the draws. What is drawn for a row depends on it and the row's digest, not on the batch.

    Raises:
        RunError: the teacher gives a log-probability that is not a number.
    """
    if isinstance(targets, TopKTargets):
        whole = served(targets, layout)
    elif isinstance(targets, HeadTargets | MeanTargets | FullTargets):
        chances = None
        if layout.kind == "sampled":
            own = [uniforms(seed, digest, n, layout.entries) for digest, n in zip(digests, counts, strict=True)]
            chances = np.concatenate(own)
        whole = joined(list(_chunks(targets, layout, chances, space)))
    else:
        raise TypeError(f"{type(targets).__name__} cannot be cached")
    ends = np.cumsum(counts)
    return [whole.take(slice(int(end) - count, int(end))) for end, count in zip(ends, counts, strict=True)]


def _chunks(
    targets: HeadTargets | MeanTargets | FullTargets,
    layout: Layout,
    chances: NDArray[np.float64] | None,
    space: Workspace,
) -> list[Record]:
    device = targets.heads[0].hidden.device if isinstance(targets, MeanTargets) else _device(targets)
    size = CHUNK_BYTES * (1 if device.type == "cpu" else GPU_FACTOR)
    rows = max(16, size // (4 * layout.vocabulary))
    found = []
    for start in range(0, len(targets), rows):
        part = slice(start, start + rows)
        log_probs = teacher_log_probs(targets.take(part), layout.temperature, space, layout.vocabulary)  # (n, V)
        if not bool(torch.isfinite(log_probs.amax(-1)).all()):
            raise RunError(
                "The teacher gives a log-probability that is not a number, so nothing can be learned from it. Look at "
                "the model, or write teacher.dtype=fp32."
            )
        found.append(top_k(log_probs, layout.entries) if chances is None else drawn(log_probs, chances[part]))
    return found


def _device(targets: HeadTargets | FullTargets) -> torch.device:
    return targets.hidden.device if isinstance(targets, HeadTargets) else targets.log_probs.device


def uniforms(seed: int, digest: bytes, positions: int, draws: int) -> NDArray[np.float64]:
    """Chances in [0, 1), (positions, draws): a stream for each row (Salmon et al. 2011)."""
    sequence = np.random.SeedSequence([seed, int.from_bytes(digest, "little")])
    return np.random.Generator(np.random.Philox(sequence)).random((positions, draws))


def served(targets: TopKTargets, layout: Layout) -> Record:
    """What a server listed, as a record: -inf where it listed less than the cache has room for."""
    ids, values = targets.ids.numpy(), targets.log_probs.float().numpy()
    if targets.log_tail is None:
        mass = np.exp(values.astype(np.float64)).sum(-1)
        with np.errstate(divide="ignore"):
            tail = np.log(np.maximum(0.0, 1.0 - mass)).astype(np.float32)
    else:
        tail = targets.log_tail.float().numpy()
    return Record(ids[:, : layout.entries], values[:, : layout.entries], log_tail=tail)
