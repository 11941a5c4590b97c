"""Reading a rollout and the forward of its first step are one pass, where that step learns from all of it at once.

The policy has not moved between them, so the second would compute the same numbers to the last bit: the first is made
with gradients instead, and its graph is kept until the rewards have become advantages.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignkit.rollouts.rollout import Rollout
from alignkit.rollouts.rows import branched, cut, micro_batches
from alignkit.rollouts.scoring import TOKENS_AT_ONCE, TokenScores, in_order


@dataclass(frozen=True)
class Ahead:
    """A forward pass over the answers ``part`` (places in the rollout), with its graph."""

    part: list[int]
    found: TokenScores

    def read(self, rollout: Rollout) -> TokenScores:
        """The same numbers without gradients, on the CPU, answer by answer as the rollout has them."""
        return in_order([self.found], self.part, rollout.tokens.tolist())


def one_pass(rollout: Rollout, *, micro: int, batch: int, device: torch.device) -> list[int] | None:
    """The answers in the order of a forward pass, where training (``micro`` answers at once) and reading (``batch``)
    take one each for the whole rollout; otherwise None."""
    parts = micro_batches(rollout.answers, range(len(rollout)), micro)
    tokens = TOKENS_AT_ONCE.get(device.type, TOKENS_AT_ONCE["cuda"])
    return parts[0] if len(parts) == len(cut(branched(rollout.answers), batch, tokens)) == 1 else None


def random_state() -> list[Tensor]:
    """Where torch's random numbers stand: a pass that moves them (dropout) is in training not what it is in reading."""
    states: list[Tensor] = [torch.get_rng_state()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states.append(torch.cuda.get_rng_state())
    return states


def same_state(before: list[Tensor], after: list[Tensor]) -> bool:
    """Whether nothing was drawn in between."""
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=False))
