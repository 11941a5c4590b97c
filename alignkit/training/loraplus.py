"""LoRA+: B learns faster than A (Hayou, Ghosh and Yu 2024, "LoRA+", section 4), by PEFT's optimizer."""

from __future__ import annotations

from typing import Any

from alignkit.config.recipe import GradientRecipe


def loraplus_optimizer(recipe: GradientRecipe, model: Any, device: str) -> Any | None:
    """The optimizer with two learning rates, or None when `adapter.lr_ratio` is 1 and the trainer's own will do."""
    if recipe.adapter.kind == "none" or recipe.adapter.lr_ratio == 1.0:
        return None
    from peft.optimizers import create_loraplus_optimizer

    section = recipe.optimizer
    options: dict[str, Any] = {"betas": (section.beta1, section.beta2), "eps": section.epsilon}
    if section.name == "adamw":
        import torch

        kind: Any = torch.optim.AdamW
        options["fused"] = device != "mps"
    else:  # the 8-bit ones; recipe.faults() refuses the rest
        import bitsandbytes

        kind = {
            "adamw_8bit": bitsandbytes.optim.AdamW8bit,
            "paged_adamw_8bit": bitsandbytes.optim.PagedAdamW8bit,
        }[section.name]
    return create_loraplus_optimizer(
        model=model,
        optimizer_cls=kind,
        lr=section.learning_rate,
        loraplus_lr_ratio=recipe.adapter.lr_ratio,
        loraplus_weight_decay=section.weight_decay,
        loraplus_lr_embedding=section.learning_rate,
        **options,
    )
