"""From the difference of two models to an adapter: factors for the matrices, and what else changed beside them.

Each target's change is replaced by its best approximation of low rank (Eckart and Young 1936), found by randomised SVD
(svd.py). Everything else that changed is saved as it is, refused, or left; nothing is lost without being named.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alignkit.errors import Fault, RequestError
from alignkit.stages.extract_lora.difference import Pair, others
from alignkit.stages.extract_lora.modules import Modules
from alignkit.stages.extract_lora.recipe import ExtractOptions
from alignkit.stages.extract_lora.svd import factors, leading_svd, rank_for
from alignkit.stages.merge.adapter_writing import Written
from alignkit.tensors.numbers import FLOATS

FEW_ROWS = 0.25
"""Share of a vocabulary up to which its changed rows are saved as rows and not as the whole matrix."""
ROOT = "base_model.model."


@dataclass
class Extraction:
    """An adapter, and how much of the fine-tune it holds."""

    written: Written
    energy: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Module to the squared norms of its change and of what the factors keep of it."""
    saved: list[str] = field(default_factory=list)
    """Changed tensors that were saved as they are."""
    rows: int = 0
    """Rows of the vocabulary that were saved, over all matrices."""
    left: list[str] = field(default_factory=list)
    """Changed tensors that were left as the base has them."""

    def figures(self) -> dict[str, Any]:
        """Plain JSON values: shares of energy kept, ranks, and what stands beside the factors."""
        total = sum(whole for whole, _ in self.energy.values())
        kept = sum(part for _, part in self.energy.values())
        shares = {module: part / whole for module, (whole, part) in self.energy.items()}
        lowest = min(shares, key=lambda module: shares[module])
        ranks = self.written.ranks.values()
        return {
            "energy_kept": kept / total,
            "lowest_energy_kept": {"module": lowest, "share": shares[lowest]},
            "modules": len(ranks),
            "rank": {"smallest": min(ranks), "largest": max(ranks), "mean": sum(ranks) / len(ranks)},
            "saved_whole": self.saved,
            "token_rows": self.rows,
            "left_out": self.left,
        }


def extract(
    pair: Pair,
    options: ExtractOptions,
    modules: Modules,
    *,
    seed: int = 42,
    progress: Callable[[int], None] | None = None,
) -> Extraction:
    """Factors and the rest. `progress` is told the bytes of each tensor of the base that is done.

    Raises RequestError: targets that match nothing, changes that no adapter can hold, `others=refuse` and other
    changes, two models that do not differ.
    """
    found = Extraction(Written())
    targets = _targets(pair, options.targets, modules)
    problems: list[str] = []
    changed = [name for name in others(pair, targets) if pair.differs(name)]
    vocabulary = _vocabulary_changes(pair, targets)
    if options.others == "refuse":
        problems = [*changed, *vocabulary]
    elif options.others == "save":
        problems = [name for name in changed if name not in modules.places]
    if problems:
        raise RequestError(_cannot(problems, options))
    for name, transposed in targets.items():
        if name not in vocabulary:
            _factor(found, pair, name, transposed, options, modules, seed)
        if progress is not None:
            progress(pair.base.tensors[name].nbytes)
    if not found.written.ranks:
        raise RequestError(
            Fault(
                where="extract.base.name",
                what="none of the target matrices differs between the fine-tune and this base",
                instead="Give the base that it was fine-tuned from, or other extract.targets.",
            )
        )
    found.written.fan_in_fan_out = any(targets.values())
    if options.others == "save":
        for name in changed:
            _save_other(found, pair, name, modules)
        _save_vocabulary(found, pair, vocabulary, modules)
    else:
        found.left = [*changed, *vocabulary]
    return found


def _targets(pair: Pair, wanted: str | list[str], modules: Modules) -> dict[str, bool]:
    """Tensors that become factors, in the order of the checkpoint, to whether they are stored (in, out)."""
    linear = {
        name: turned
        for name, turned in modules.linear.items()
        if name in pair.names and {pair.base.dtype(name), pair.tuned.dtype(pair.names[name])} <= set(FLOATS)
    }
    if wanted == "all-linear":
        return linear
    names = {name: modules.places[name][0] for name in linear}
    if isinstance(wanted, str):
        try:
            chosen = {name for name, module in names.items() if re.fullmatch(wanted, module)}
        except re.error as error:
            raise RequestError(
                Fault(where="extract.targets", what=f"{wanted!r} is no regular expression ({error})")
            ) from error
        unmatched = [] if chosen else [wanted]
    else:
        matches = {
            one: {name for name, module in names.items() if module == one or module.endswith("." + one)}
            for one in wanted
        }
        chosen = set().union(*matches.values())
        unmatched = [one for one, own in matches.items() if not own]
    if unmatched:
        leaves = sorted({module.rpartition(".")[2] for module in names.values()})
        close = difflib.get_close_matches(unmatched[0], leaves, n=3)
        raise RequestError(
            Fault(
                where="extract.targets",
                what=f"{unmatched[0]!r} matches no linear layer of this model",
                instead=f"Did you mean {' or '.join(close)}?" if close else f"They are {', '.join(leaves)}.",
            )
        )
    return {name: turned for name, turned in linear.items() if name in chosen}


def _factor(
    found: Extraction, pair: Pair, name: str, transposed: bool, options: ExtractOptions, modules: Modules, seed: int
) -> None:
    delta = pair.delta(name, transposed=transposed)
    total = float(np.einsum("ij,ij->", delta, delta, dtype=np.float64))
    if not total:
        return
    module = modules.places[name][0]
    key = hashlib.sha256(f"{seed}\n{module}".encode()).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))
    triples = leading_svd(delta, options.rank, generator, iterations=options.iterations)
    s = triples[1]
    # Below this a singular value is rounding, not change (the tolerance of a numerical rank).
    real = int((s > s[0] * max(delta.shape) * np.finfo(np.float32).eps).sum())
    rank = real if options.energy is None else min(real, rank_for(s, total, options.energy))
    a, b = factors(triples, rank)
    found.written.add_factors(module, a, b, embedding=False)
    found.energy[module] = total, min(float(np.square(s[:rank], dtype=np.float64).sum()), total)


def _vocabulary_changes(pair: Pair, targets: dict[str, bool]) -> dict[str, list[int]]:
    """Embedding and head, where they changed and are no target: the changed rows of each.

    A head that is a target counts here when only few of its rows changed, or when it has more rows than the base's.
    """
    found = {}
    for name in (pair.embedding, pair.head):
        if name is None:
            continue
        if name not in pair.names:  # the base ties it, the fine-tune does not
            found[name] = list(range(pair.tuned.shape(name)[0]))
            continue
        rows = pair.changed_rows(name)
        few = len(rows) <= FEW_ROWS * pair.base.shape(name)[0]
        if rows and (name not in targets or few or pair.new_rows):
            found[name] = rows
    return found


def _save_other(found: Extraction, pair: Pair, name: str, modules: Modules) -> None:
    module, leaf = modules.places[name]
    if module in found.written.ranks and leaf == "bias":
        found.written.bias = "lora_only"
        _copy(found, pair, name, f"{ROOT}{module}.base_layer.bias")
        found.saved.append(name)
        return
    if module not in found.written.modules_to_save:
        found.written.modules_to_save.append(module)
        for tensor in modules.leaves[module]:
            _copy(found, pair, tensor, f"{ROOT}{module}.{modules.places[tensor][1]}")
    found.saved.append(name)


def _save_vocabulary(found: Extraction, pair: Pair, changes: dict[str, list[int]], modules: Modules) -> None:
    for name, rows in changes.items():
        module = modules.places[name][0] if name in modules.places else modules.head
        if name in pair.names and len(rows) <= FEW_ROWS * pair.base.shape(name)[0]:
            found.written.token_rows[module] = rows
            found.written.add(f"{ROOT}{module}.token_adapter.trainable_tokens_delta", pair.rows(name, rows))
            found.rows += len(rows)
            continue
        found.saved.append(name)
        # A tied head is saved with its embedding: PEFT would otherwise train them apart.
        for one in (module, *([modules.head] if pair.tied and name == pair.embedding else [])):
            found.written.modules_to_save.append(one)
            _copy(found, pair, name, f"{ROOT}{one}.weight")
    if pair.new_rows:
        assert pair.embedding is not None
        before = pair.base.shape(pair.embedding)[0]
        trained = sorted({row for rows in found.written.token_rows.values() for row in rows})
        found.written.vocabulary = {"rows": before + pair.new_rows, "mean_of": before, "trained": trained}


def _copy(found: Extraction, pair: Pair, name: str, key: str) -> None:
    """A tensor of the fine-tune to the bytes."""
    own = pair.names.get(name, name)
    info = pair.tuned.tensors[own]
    found.written.tensors[key] = (info.dtype, info.shape, pair.tuned.raw(own, 0, info.count))


def _cannot(problems: list[str], options: ExtractOptions) -> Fault:
    listed = ", ".join(problems[:6]) + (f" and {len(problems) - 6} more" if len(problems) > 6 else "")
    if options.others == "refuse":
        instead = "Write extract.others=save to keep them whole beside the factors, or extract.others=leave."
        return Fault(where="extract.others", what=f"these changed and are no target: {listed}", instead=instead)
    what = f"these changed, and no adapter can hold them, since the model computes with them in another form: {listed}"
    return Fault(where="extract.others", what=what, instead="Write extract.others=leave to do without them.")
