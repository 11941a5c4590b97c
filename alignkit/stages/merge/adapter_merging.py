"""LoRA adapters on one base merged among themselves; the result is an adapter on that base.

The updates are Uᵢ = sᵢ·Bᵢ·Aᵢ, the weights wᵢ count as they are (divided by their sum with `normalize`):

- cat: Σ wᵢ·Uᵢ exactly: the factors are put beside each other, and the rank is the sum of the ranks.
- svd: the best approximation of Σ wᵢ·Uᵢ at the rank of the largest adapter, or at `merge.rank`.
- linear: A = Σ √(wᵢsᵢ)·Aᵢ and B = Σ √(wᵢsᵢ)·Bᵢ, as PEFT's `linear`. Cheap, of the same rank, and rough: the product
  has terms Bᵢ·Aⱼ that no adapter learned. The metric `missed` says how far it is from Σ wᵢ·Uᵢ.
- ties, dare_linear, dare_ties: the whole-model method of that name on the updates, decomposed like svd.
- magnitude_prune: the largest elements of each update (`density` of them), summed, and decomposed like svd.

All but linear work on the updates and not on the factors, since (A, B) and (M·A, B·M⁻¹) are the same update for every
invertible M: what depends on the elements, the signs or the angles of a factor depends on an accident of training.
PEFT's `ties`, `dare_*` and `magnitude_prune` work on factors; its `ties_svd` and the like are what is done here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any

import numpy as np

from alignkit.errors import RequestError
from alignkit.models.locating import read_origin
from alignkit.stages.extract_lora.svd import factors, leading_svd, product_svd
from alignkit.stages.merge.adapter_methods import ADAPTER_METHODS, check, raw_of
from alignkit.stages.merge.adapter_reading import Adapter, LowRank, Matrix
from alignkit.stages.merge.adapter_writing import Written
from alignkit.stages.merge.methods import Method
from alignkit.stages.merge.methods.method import Values
from alignkit.tensors.jobs import Folding, Merger

_BLOCK = 1 << 18


@dataclass
class Merged:
    """The result, and what became of the updates."""

    written: Written
    metrics: dict[str, Any] = field(default_factory=dict)
    """`rank` (largest), `modules`, `missed`: ‖result − wanted‖²/‖wanted‖² over all modules, where wanted is the merged
    update before it was decomposed (of linear: the exact weighted sum)."""


def merge_adapters(
    adapters: Sequence[Adapter],
    method: str,
    values: Callable[[str], Values],
    *,
    rank: int | None = None,
    seed: int = 42,
) -> Merged:
    """Merge adapters that `check` found nothing wrong with, module by module.

    Args:
        values: name of a module's weight ("model.layers.0.self_attn.q_proj.weight") to the parameters that hold for
            it: those of ADAPTER_METHODS[method], with one value an adapter where they are per model.
        rank: of the result where it is decomposed; None: the largest rank that the module has in an adapter.
        seed: of what is dropped at random (dare_*).

    A module that an adapter does not change is merged from the others. Trained token rows are averaged by weight over
    the adapters that have them; modules saved whole are taken from the one adapter that has them.
    """
    if faults := check(adapters, method):
        raise RequestError(faults)
    merged = Merged(Written())
    wanted = missed = 0.0
    for module in dict.fromkeys(module for adapter in adapters for module in adapter.low_rank):
        have = [at for at, adapter in enumerate(adapters) if module in adapter.low_rank]
        mine = [(adapters[at], adapters[at].low_rank[module]) for at in have]
        own = _some(values(f"{module}.weight"), have, len(adapters), ADAPTER_METHODS[method])
        key = hashlib.sha256(f"{seed}\n{module}".encode()).digest()
        a, b, total, lost = _merge_module(mine, method, own, rank, key)
        merged.written.add_factors(module, a, b, embedding=mine[0][1].embedding)
        wanted, missed = wanted + total, missed + lost
    _take_rows(merged.written, adapters, values)
    _take_whole(merged.written, adapters)
    ranks = merged.written.ranks
    merged.metrics = {
        "modules": len(ranks),
        "rank": max(ranks.values(), default=0),
        "missed": missed / wanted if wanted else 0.0,
    }
    return merged


def _some(values: Values, have: list[int], count: int, method: Method) -> dict[str, Any]:
    """The values for those adapters that change a module."""
    found: dict[str, Any] = dict(method.defaults(count)) | dict(values)
    for name, parameter in method.parameters.items():
        if parameter.per_model:
            found[name] = [found[name][at] for at in have]
    return found


def _merge_module(
    mine: list[tuple[Adapter, LowRank]], method: str, values: Mapping[str, Any], rank: int | None, key: bytes
) -> tuple[Matrix, Matrix, float, float]:
    """A, B, and the squared norms of the merged update and of what the factors miss of it."""
    pairs = [(adapter.read(part.a), adapter.read(part.b) * np.float32(part.scale)) for adapter, part in mine]
    size = rank if rank is not None else max(part.rank for _, part in mine)
    if method in ("linear", "cat", "svd"):
        weights = _weights(values)
        a = np.concatenate([one for one, _ in pairs])  # (Σr, in)
        b = np.concatenate([one * np.float32(w) for (_, one), w in zip(pairs, weights, strict=True)], axis=1)
        if method == "cat":
            return a, b, 1.0, 0.0
        triples = product_svd(b, a)
        total = float(np.square(triples[1], dtype=np.float64).sum())
        if method == "svd":
            size = min(size, len(triples[1]))
            rest = float(np.square(triples[1][size:], dtype=np.float64).sum())
            return *factors(triples, size), total, rest
        roots = [math.sqrt(abs(w) * abs(part.scale)) for w, (_, part) in zip(weights, mine, strict=True)]
        signs = [math.copysign(1.0, w * part.scale) for w, (_, part) in zip(weights, mine, strict=True)]
        sum_a = sum(one.read(part.a) * np.float32(r * s) for (one, part), r, s in zip(mine, roots, signs, strict=True))
        sum_b = sum(one.read(part.b) * np.float32(r) for (one, part), r in zip(mine, roots, strict=True))
        assert isinstance(sum_a, np.ndarray) and isinstance(sum_b, np.ndarray)
        apart = product_svd(np.concatenate([b, -sum_b], axis=1), np.concatenate([a, sum_a]))[1]
        return sum_a, sum_b, total, float(np.square(apart, dtype=np.float64).sum())
    updates: list[Matrix] = [(b @ a).reshape(-1).astype(np.float32, copy=False) for a, b in pairs]
    shape = (pairs[0][1].shape[0], pairs[0][0].shape[1])
    merger = ADAPTER_METHODS[method].start(shape, values, key)
    update = _run(merger, updates, shape).reshape(shape)
    generator = np.random.Generator(np.random.Philox(key=len(mine)))  # a sketch is no chance: it goes by no seed
    triples = leading_svd(update, size, generator)
    total = float(np.square(update, dtype=np.float64).sum())
    rest = max(total - float(np.square(triples[1], dtype=np.float64).sum()), 0.0)
    return *factors(triples, len(triples[1])), total, rest


def _weights(values: Mapping[str, Any]) -> list[float]:
    weights = [float(one) * float(values["scaling"]) for one in values["weight"]]
    total = sum(float(one) for one in values["weight"])
    return [one / total for one in weights] if values["normalize"] and total else weights


def _run(merger: Merger, updates: list[Matrix], shape: tuple[int, ...]) -> Matrix:
    """A whole-model method on arrays in memory, the base being zero."""
    width = shape[-1]
    step = max(1, _BLOCK // width) * width
    count = math.prod(shape)
    starts = range(0, count, step)
    zero = np.zeros(min(step, count), dtype=np.float32)

    def chunks(start: int) -> tuple[list[Matrix], Matrix]:
        found = [update[start : start + step].copy() for update in updates]
        return found, zero[: len(found[0])].copy()

    for number in range(merger.scans):
        parts = [merger.scan(number, start, *chunks(start)) for start in starts]
        if isinstance(merger, Folding):
            parts = [reduce(partial(merger.fold, number), parts)]
        merger.gather(number, parts)
    return np.concatenate([merger.combine(start, *chunks(start)) for start in starts])


def _take_rows(written: Written, adapters: Sequence[Adapter], values: Callable[[str], Values]) -> None:
    modules = dict.fromkeys(module for adapter in adapters for module in adapter.rows)
    for module in modules:
        weights = dict(values(f"{module}.weight")).get("weight")
        weights = list(weights) if isinstance(weights, Sequence) else [1.0] * len(adapters)
        found: dict[int, list[tuple[float, Matrix]]] = {}
        for adapter, weight in zip(adapters, weights, strict=True):
            ids, key = adapter.rows.get(module, ((), ""))
            if ids:
                rows = adapter.read(key)
                for at, token in enumerate(ids):
                    found.setdefault(token, []).append((float(weight), rows[at]))
        ids = tuple(sorted(found))
        means = []
        for token in ids:
            total = sum(weight for weight, _ in found[token])
            means.append(
                sum((weight / total if total else 1 / len(found[token])) * row for weight, row in found[token])
            )
        written.token_rows[module] = list(ids)
        written.add(f"base_model.model.{module}.token_adapter.trainable_tokens_delta", np.stack(means))


def _take_whole(written: Written, adapters: Sequence[Adapter]) -> None:
    for adapter in adapters:
        for key in adapter.whole.values():
            info = adapter.file.tensors[key]
            written.tensors[key] = (info.dtype, info.shape, raw_of(adapter, key))
        written.modules_to_save += [
            name for name in adapter.config.get("modules_to_save") or [] if name not in written.modules_to_save
        ]
        if adapter.config.get("bias", "none") != "none":
            written.bias = adapter.config["bias"]
        written.fan_in_fan_out = written.fan_in_fan_out or bool(adapter.config.get("fan_in_fan_out"))
        origin = read_origin(adapter.path) or {}
        if isinstance(origin.get("vocabulary"), dict):
            trained = sorted({token for ids in written.token_rows.values() for token in ids})
            written.vocabulary = {**origin["vocabulary"], "trained": trained}
    written.rope = adapters[0].rope  # all have the same one
    kinds = [(read_origin(adapter.path) or {}).get("quantization") for adapter in adapters]
    if all(kind == kinds[0] for kind in kinds) and isinstance(kinds[0], dict):
        written.quantization = kinds[0]
