"""What of TRL's own options means nothing here, since the rollouts are alignkit's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from alignkit.errors import Fault

ROLLOUTS_OF_TRL = (
    "num_generations_eval",
    "top_k",
    "min_p",
    "generation_kwargs",
    "chat_template_kwargs",
    "repetition_penalty",
    "cache_implementation",
    "ds3_gather_for_generation",
    "shuffle_dataset",
    "pad_to_multiple_of",
    "cast_lm_head_to_fp32",
    "model_init_kwargs",
    "trust_remote_code",
    "multi_objective_aggregation",
    "sync_ref_model",
    "ref_model_mixup_alpha",
    "ref_model_sync_steps",
    "max_tool_calling_iterations",
    "use_adaptive_entropy",
    "entropy_coef_min",
    "entropy_coef_max",
    "entropy_coef_delta",
    "entropy_target",
)
ROLLOUTS_OF_TRL_BEGIN = ("vllm_", "use_vllm", "use_transformers_", "transformers_", "log_")
"""Options of TRL's own rollouts, reference and logs, which are not used here."""


def trl_faults(names: Iterable[str]) -> Iterator[Fault]:
    """One for each of the `trl.*` names that nothing would read, or that would make `batch.micro` decide."""
    for name in names:
        if name in ROLLOUTS_OF_TRL or name.startswith(ROLLOUTS_OF_TRL_BEGIN):
            yield Fault(
                where=f"trl.{name}",
                what="belongs to TRL's rollouts, and alignkit draws the answers itself",
                instead="Leave it out.",
            )
        if name == "top_entropy_quantile":
            yield Fault(
                where=f"trl.{name}",
                what="is told from the tokens of one forward pass, so that batch.micro would decide what is learned",
                instead="Leave it out.",
            )
