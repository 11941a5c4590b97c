"""The losses of TRL's GRPO and RLOO trainers on log-probabilities that are given: no model, no trainer is built."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from alignkit.stages.rlhf.arithmetic import ragged


def stand_in(new: Tensor, entropy: Tensor, lengths: Tensor, **given: Any) -> SimpleNamespace:
    """What a trainer's loss reads of its trainer; ``given`` overrides."""
    same = lambda one, **_: one  # noqa: E731
    scores = (ragged.padded(new, lengths), ragged.padded(entropy, lengths), None)
    accelerator = SimpleNamespace(gather=same, reduce=same, num_processes=1, sync_gradients=True)
    return SimpleNamespace(
        **{
            "accelerator": accelerator,
            "model": SimpleNamespace(training=True),
            "aux_loss_enabled": False,
            "top_entropy_quantile": 1.0,
            "off_policy_mask_threshold": None,
            "importance_sampling_level": "token",
            "beta": 0.0,
            "epsilon_low": 0.2,
            "epsilon_high": 0.2,
            "loss_type": "bnpo",
            "use_vllm": False,
            "vllm_importance_sampling_correction": False,
            "max_completion_length": int(lengths.max()),
            "current_gradient_accumulation_steps": 1,
            "_entropy_bonus_enabled": False,
            "use_adaptive_entropy": False,
            "entropy_coef": 0.0,
            "args": SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
            "_metrics": {"train": defaultdict(list)},
            "_get_per_token_logps_and_entropies": lambda *_, **__: scores,
            **given,
        }
    )


def inputs(lengths: Tensor, **given: Any) -> dict[str, Any]:
    """A batch of those trainers: no prompt, and answers whose tokens nobody reads."""
    mask = ragged.mask(lengths).long()
    nothing = torch.zeros(len(lengths), 0, dtype=torch.long)
    return {
        "prompt_ids": nothing,
        "prompt_mask": nothing,
        "completion_ids": torch.zeros_like(mask),
        "completion_mask": mask,
        "num_items_in_batch": mask.sum(),
        **given,
    }


def grpo(
    new: Tensor,
    old: Tensor,
    advantages: Tensor,
    lengths: Tensor,
    *,
    reference: Tensor | None = None,
    entropy: Tensor | None = None,
    **given: Any,
) -> tuple[Tensor, dict[str, list[float]]]:
    """GRPOTrainer's loss and figures; ``advantages`` (A,) of answers or (N,) of tokens."""
    from trl import GRPOTrainer

    trainer = stand_in(new, torch.zeros_like(new) if entropy is None else entropy, lengths, **given)
    per_token = advantages.shape[0] == new.shape[0] and len(lengths) != new.shape[0]
    batch = inputs(
        lengths,
        advantages=ragged.padded(advantages, lengths) if per_token else advantages,
        old_per_token_logps=ragged.padded(old, lengths),
    )
    if reference is not None:
        batch["ref_per_token_logps"] = ragged.padded(reference, lengths)
    return GRPOTrainer._compute_loss(trainer, None, batch), trainer._metrics["train"]


def rloo(new: Tensor, old: Tensor, advantages: Tensor, lengths: Tensor) -> Tensor:
    """RLOOTrainer's loss; ``advantages`` (A,)."""
    from trl import RLOOTrainer

    trainer = stand_in(new, torch.zeros_like(new), lengths)
    batch = inputs(lengths, advantages=advantages, old_logps=ragged.sums(old, lengths))
    found: Tensor = RLOOTrainer._compute_loss(trainer, None, batch)
    return found
