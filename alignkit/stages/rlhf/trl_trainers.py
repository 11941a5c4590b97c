"""RLOO and GRPO with its kin: the losses are TRL's own code, on our rollouts and our scoring.

TRL's trainers draw and score answers themselves; here their ``_compute_loss`` alone is called. What it asks the model
for comes from one pass over the answers, with the prompt read once. TRL averages over a forward pass and divides by the
passes of a step; so that parts of unequal sizes add up to the mini-batch's loss it is told the share of each instead.

Letters: A answers of a part, T the longest of them, N tokens of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer, RLOOTrainer

from alignkit.rollouts.scoring import TokenScores
from alignkit.stages.rlhf.arithmetic.policy import clipped_high, clipped_low, moved, ratios
from alignkit.stages.rlhf.arithmetic.ragged import last
from alignkit.stages.rlhf.trainer import MiniBatch, RolloutTrainer

PER_TOKEN = ("bnpo",)
"""Losses of TRL that are a mean over the tokens of a forward pass."""
PER_BATCH = ("dapo", "cispo", "vespo")
"""Losses of TRL that are a sum over `num_items_in_batch`."""


class _Borrowed(RolloutTrainer):
    """What both have in common."""

    _inputs: dict[str, Any]
    _found: TokenScores

    def _get_per_token_logps_and_entropies(
        self, model: Any, *args: Any, compute_entropy: bool = False, compute_aux_loss: bool = False, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None, None]:
        """(A, T) log-probabilities and entropies of the part in hand, for TRL's loss."""
        found = self._found = self.scores(model, self._inputs)
        assert found.log_probs is not None and found.entropy is not None
        log_probs = found.padded(found.log_probs)
        return log_probs, found.padded(found.entropy.detach()), None

    def _padded(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The part as TRL's losses want it. Tokens are not: they were scored by what stands in ``_inputs``."""
        known, tokens = inputs["known"], inputs["answer_tokens"]
        shape = TokenScores(tokens=tokens)
        mask = shape.mask().long()  # (A, T)
        nothing = mask[:, :0]
        given: dict[str, Any] = {
            "prompt_ids": nothing,
            "prompt_mask": nothing,
            "completion_ids": mask,
            "completion_mask": mask,
            "advantages": known["advantages"][last(tokens)],  # (A,): an answer's tokens share its advantage
        }
        if "old" in known:
            given["old_per_token_logps"] = shape.padded(known["old"])
        if "reference" in known:
            given["ref_per_token_logps"] = shape.padded(known["reference"])
        return given

    def _tell(self, inputs: Mapping[str, Any], mini: MiniBatch, loss: Tensor, *, sequence: bool) -> None:
        """The figures that our own losses have too, by the same names. ``sequence``: ratios are those of answers."""
        found, known, settled = self._found, inputs["known"], self.setting.settled
        assert found.log_probs is not None and found.entropy is not None
        with torch.no_grad():
            new = found.log_probs
            old = known.get("old", new)
            ratio, worth = ratios(new, old), known["advantages"]
            tokens = max(1, mini.tokens)
            figures = {
                "policy_loss": loss,
                "moved": moved(ratio, new, old).sum() / tokens,
                "entropy": found.entropy.sum() / tokens,
            }
            if sequence:
                tokens = max(1, len(mini.numbers))
                shift = found.sums(new - old)
                ratio = ratios(self.of_answer(shift, found.tokens), torch.zeros_like(shift))
                worth = worth[last(found.tokens)]
            figures["shift"] = (ratio - 1).abs().sum() / tokens
            if "low" in settled.clips:
                figures["clip_low"] = clipped_low(ratio, worth, settled.clip_low).sum() / tokens
            if "high" in settled.clips:
                figures["clip_high"] = clipped_high(ratio, worth, settled.clip_high).sum() / tokens
        mini.add(figures)

    def of_answer(self, shift: Tensor, tokens: Tensor) -> Tensor:
        """(A,) the logarithm of an answer's ratio from its tokens' sums of log-ratios."""
        return shift


class RlooTrainer(_Borrowed, RLOOTrainer):  # type: ignore[misc]
    """RLOO (Ahmadian et al. 2024): an answer is one action, its ratio is clipped as a whole."""

    def part_loss(self, model: Any, inputs: dict[str, Any], mini: MiniBatch) -> Tensor:
        self._inputs, self._given = inputs, self._padded(inputs)
        old = inputs["known"].get("old")
        if old is not None:
            self._given["old_logps"] = TokenScores(tokens=inputs["answer_tokens"]).sums(old)
        share = len(inputs["answer_tokens"]) / len(mini.numbers)
        found: Tensor = self._compute_loss(model, self._given) * share  # TRL's is a mean over the part
        self._tell(inputs, mini, found.detach(), sequence=True)
        return self.with_router(found, self._found.router, len(inputs["answer_tokens"]), mini)

    def _get_per_token_logps_and_entropies(
        self, model: Any, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None, None]:
        log_probs, entropies, nothing = super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        # Of a policy that has not moved the old log-probabilities are the new ones, to the last bit.
        self._given.setdefault("old_logps", (log_probs.detach() * self._given["completion_mask"]).sum(1))
        return log_probs, entropies, nothing


class GrpoTrainer(_Borrowed, GRPOTrainer):  # type: ignore[misc]
    """GRPO (Shao et al. 2024) and what TRL has of its kin: Dr. GRPO, DAPO, GSPO, BNPO, CISPO and others."""

    current_gradient_accumulation_steps: float

    def part_loss(self, model: Any, inputs: dict[str, Any], mini: MiniBatch) -> Tensor:
        self._inputs = inputs
        setting, given = self.setting, self._padded(inputs)
        in_loss = setting.settled.kl_where == "loss"
        self.beta = setting.maker.crediting.coefficient if in_loss else 0.0
        tokens = int(inputs["answer_tokens"].sum())
        steps = self.current_gradient_accumulation_steps
        try:
            # TRL divides by this; see the module's docstring.
            if self.loss_type in PER_TOKEN:
                self.current_gradient_accumulation_steps = mini.tokens / tokens
            elif self.loss_type in PER_BATCH:
                given["num_items_in_batch"] = torch.tensor(
                    float(mini.tokens * self.args.steps_per_generation), device=self.args.device
                )
                self.current_gradient_accumulation_steps = 1
            else:
                self.current_gradient_accumulation_steps = len(mini.numbers) / len(inputs["answer_tokens"])
            loss: Tensor = self._compute_loss(model, given)
        finally:
            self.current_gradient_accumulation_steps = steps
        sequence = self.importance_sampling_level == "sequence"
        self._tell(inputs, mini, loss.detach(), sequence=sequence)
        if setting.options.entropy_coefficient:
            assert self._found.entropy is not None
            loss = loss - setting.options.entropy_coefficient * self._found.entropy.sum() / mini.tokens
        return self.with_router(loss, self._found.router, len(inputs["answer_tokens"]), mini)

    def of_answer(self, shift: Tensor, tokens: Tensor) -> Tensor:
        return shift / tokens  # GSPO's is the geometric mean (Zheng et al. 2025, equation 7)
