"""Whether a reward model can read a prompt once for both answers: asked of the model itself, in fp32, before training.

As in the dpo stage: attention that computes branches is exact, anything else that looks along a row is not. So some
rows are read both ways, and where the ends of answers are not the same each answer is read with a prompt of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from alignkit.console import log
from alignkit.data.branches import Branch, Branched
from alignkit.evaluation.inference import reading
from alignkit.models.attention import VARLEN, can_isolate
from alignkit.models.quantized import is_quantized
from alignkit.models.raised import raised
from alignkit.rewards.classified import TrunkView
from alignkit.stages.dpo.sharing import sliding_window
from alignkit.stages.reward.rows import collator

TOLERANCE = 1e-3
"""Share of the largest hidden value that values may differ by; in fp32 rounding stays below 1e-5."""

ROWS, TRUNK, BRANCH = 2, 64, 24
"""Rows of the comparison, and the tokens of a prompt and of an answer that it looks at."""


def choose_layout(model: Any, rows: Sequence[Branched], *, attention: str, packing: bool, longest: int) -> str:
    """How rows lie in a batch: "shared", "apart" or "padded" (see data/branching.py).

    Args:
        model: a classifier as it is loaded, adapter or not, quantized or not; it comes out unchanged.
        rows: some of the first.
        attention: what it was loaded with (``Loaded.attention``).
        packing: whether rows may lie end to end at all (``data.packing``).
        longest: tokens of the longest row: beyond a sliding window one row is made as long.

    Where prompts are not shared though answers have them in common, a line says why.
    """
    if not packing:
        return "padded"
    single = all(len(row.branches) == 1 for row in rows)
    view = TrunkView(model)
    if attention not in (VARLEN, "flash_attention_2"):
        reason = f"{attention} attention knows no document boundaries"
    elif not _isolates(view, model):
        reason = "this model's layers would let one row see another"
    elif single:
        return "apart"  # nothing to share
    else:
        return _shared_or_apart(view, rows, attention=attention, longest=longest)
    log.say(f"prompts are read once for each answer and rows are padded: {reason}")
    return "padded"


def _isolates(view: TrunkView, model: Any) -> bool:
    """``can_isolate``; of a quantized model in fp32 too: int8 layers choose by the whole batch what they round."""
    if can_isolate(view):
        return True
    if not is_quantized(model):
        return False
    with raised(view):
        return bool(can_isolate(view))


def _shared_or_apart(view: TrunkView, rows: Sequence[Branched], *, attention: str, longest: int) -> str:
    if attention != VARLEN:
        reason = f"{attention} cannot share one between answers"
    else:
        gap = disagreement(view, rows, longest=longest)
        if gap <= TOLERANCE:
            return "shared"
        how = f"by {gap:.2g} of their size" if math.isfinite(gap) else "or cannot be computed"
        reason = f"with a shared prompt what this model makes of an answer is another ({how}, in fp32)"
    log.say(f"prompts are read once for each answer: {reason}")
    return "apart"


def disagreement(view: TrunkView, rows: Sequence[Branched], *, longest: int) -> float:
    """The largest difference of a hidden value at the end of an answer, read with a shared prompt and alone in a row,
    over the largest value. In fp32, in evaluation mode. Infinite where sharing fails or gives no number."""
    taken = [_shortened(row) for row in rows[:ROWS]]
    window = sliding_window(view.config)
    if window is not None and longest > window:
        row = taken[0]
        times = 1 + (window + BRANCH) // len(row.trunk)
        taken[0] = Branched((row.trunk * times)[: window + BRANCH], row.branches, row.where)
    alone = [Branched(row.trunk, (branch,), row.where) for row in taken for branch in row.branches]
    with reading(view), raised(view):
        plain = torch.cat([_ends(view, collator("padded", -1)([row]), ("input_ids",)) for row in alone])  # (A, D)
        try:
            found = _ends(view, collator("shared", -1)(taken), ("input_ids", "position_ids", "branch_lengths"))
        except (TypeError, ValueError, NotImplementedError):
            return math.inf  # it takes no branch lengths, or has attention that cannot be cut
    gap = float((found - plain).abs().max() / plain.abs().max())
    return gap if math.isfinite(gap) else math.inf


def _shortened(row: Branched) -> Branched:
    """The end of the prompt and the beginnings of the answers."""
    branches = tuple(Branch(branch.ids[:BRANCH], branch.scored[:BRANCH]) for branch in row.branches)
    return Branched(trunk=row.trunk[-TRUNK:], branches=branches, where=row.where)


def _ends(view: TrunkView, batch: dict[str, Any], names: Sequence[str]) -> Tensor:
    """Hidden states (A, D) at the ends of the answers of a batch, fp32."""
    device = view.get_input_embeddings().weight.device
    given = {name: batch[name].to(device) if isinstance(batch[name], Tensor) else batch[name] for name in names}
    hidden: Tensor = view(**given, use_cache=False).logits  # (B, T, D)
    return hidden.flatten(0, 1)[batch["reward_at"].to(hidden.device)].float()
