"""Held-out rows under a model beside what the reference says of them, computed as in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from alignkit.data.branches import Branched
from alignkit.stages.dpo.losses import PairScores, Scores, needs_kl
from alignkit.stages.dpo.policy import mismatched_ratios, policy_scores
from alignkit.stages.dpo.recipe import DpoOptions
from alignkit.stages.dpo.reference.passes import Pass, References
from alignkit.stages.dpo.reference.rows import batches
from alignkit.stages.dpo.step import joined
from alignkit.training.head import ready_to_score


class HeldOutComparison:
    """Call it with a model and how many of the first held-out rows to look at (None: all)."""

    def __init__(
        self,
        rows: Sequence[Branched],
        mismatched: Sequence[Branched],
        options: DpoOptions,
        *,
        passing: Pass,
        references: References,
    ) -> None:
        """``mismatched``: the rows' prompts with answers to others, for losses with a KL reference point."""
        self.rows, self.mismatched, self.options = rows, mismatched, options
        self.passing, self.references = passing, references
        self.at_start = False
        """Whether the model that is asked about is the reference itself, to the last bit."""

    def __call__(self, model: Any, rows: int | None = None) -> Scores:
        """Scores of the rows in their order, without gradients."""
        chosen = self.rows[:rows]
        all_scored = all(row.margin is not None for row in chosen)
        parts: list[Any] = []
        order: list[int] = []
        with self.passing.reading(ready_to_score(model)):
            kl = self._kl(model, len(chosen)) if needs_kl(self.options) else None
            for places in batches([len(row) for row in chosen], self.passing.tokens_at_once):
                some = [chosen[place] for place in places]
                batch = self.passing.batch(some)
                if not all_scored:
                    batch.pop("margins", None)
                own = None if self.at_start else self.references.tensor(some)
                found = policy_scores(model, batch, self.options, reference=own, kl=kl)
                parts.append(_its_own_reference(found) if self.at_start else found)
                order += [int(place) for place in places]
        together: Scores = joined(parts)
        back = torch.tensor(order).argsort()
        in_order: dict[str, Any] = {
            one.name: value[back.to(value.device)]
            for one in fields(together)
            if isinstance(value := getattr(together, one.name), Tensor) and value.ndim
        }
        return replace(together, **in_order)

    def _kl(self, model: Any, count: int) -> Tensor:
        rows = [self.mismatched[place] for place in range(min(count, len(self.mismatched)))]
        if self.at_start or not rows:
            return torch.zeros((), device=self.passing.device)
        ratios = []
        for places in batches([len(row) for row in rows], self.passing.tokens_at_once):
            some = [rows[place] for place in places]
            ratios.append(mismatched_ratios(model, self.passing.batch(some), self.references.tensor(some)))
        return torch.cat(ratios).mean()


def _its_own_reference(scores: Scores) -> Scores:
    """Scores of the model that the reference is: every log-ratio is 0."""
    if isinstance(scores, PairScores):
        return replace(scores, chosen_reference=scores.chosen, rejected_reference=scores.rejected)
    return replace(scores, reference=scores.policy)
