"""From a recipe's sections to the arguments of TRL's config classes: the one place where the names meet."""

from __future__ import annotations

from typing import Any

from alignkit import ranks
from alignkit.config import trl_options
from alignkit.config.recipe import GradientRecipe
from alignkit.config.sections import Launch
from alignkit.runs.directory import RunDirectory
from alignkit.training.memory import Fit

OPTIMIZERS = {
    "adamw": "adamw_torch_fused",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "adafactor": "adafactor",
    "sgd": "sgd",
}
DECAYS = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


def trl_arguments(
    recipe: GradientRecipe, run: RunDirectory, *, device: str, autocast: str | None, fit: Fit, routed: bool = False
) -> dict[str, Any]:
    """Keyword arguments that every TRL config shares; a stage adds its own.

    ``autocast`` is "bf16", "fp16" or None; ``routed``: the model has a router.
    ``recipe.trl`` comes last: it was checked and holds no key that is ours.
    """
    trackers = [] if recipe.report_to == "none" else list(recipe.report_to)
    optimizer = OPTIMIZERS[recipe.optimizer.name]
    if optimizer == "adamw_torch_fused" and device == "mps":
        optimizer = "adamw_torch"
    return {
        "output_dir": str(run.checkpoints),
        "per_device_train_batch_size": fit.micro,
        "gradient_accumulation_steps": -(-recipe.batch.size // (fit.micro * ranks.world())),
        "learning_rate": recipe.optimizer.learning_rate,
        "weight_decay": recipe.optimizer.weight_decay,
        "adam_beta1": recipe.optimizer.beta1,
        "adam_beta2": recipe.optimizer.beta2,
        "adam_epsilon": recipe.optimizer.epsilon,
        "max_grad_norm": recipe.optimizer.max_grad_norm,
        "optim": optimizer,
        "num_train_epochs": recipe.schedule.epochs,
        "max_steps": recipe.schedule.max_steps or -1,
        "lr_scheduler_type": DECAYS[recipe.schedule.decay],
        "warmup_steps": recipe.schedule.warmup,
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "bf16": autocast == "bf16",
        "fp16": autocast == "fp16",
        "use_cpu": device == "cpu",
        "gradient_checkpointing": fit.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if fit.gradient_checkpointing else None,
        # One line of metrics.jsonl a step; the loss is looked at every step anyway, for NaN.
        "logging_strategy": "steps",
        "logging_steps": 1,
        # On, it logs a NaN loss as 0.0 and trains on; our guard stops instead.
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": recipe.checkpoint.every,
        "eval_strategy": "no",
        "report_to": trackers,
        "run_name": run.path.name,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": device.startswith("cuda"),
        "push_to_hub": False,
        **_engine(recipe, device, routed, autocast),
        **trl_options.typed(recipe.trl, recipe.trl_config),
    }


def _engine(recipe: GradientRecipe, device: str, routed: bool, autocast: str | None) -> dict[str, Any]:
    """What accelerate is told of several processes; nothing of one."""
    if ranks.world() == 1:
        return {}
    launch = recipe.launch
    if launch.engine == "deepspeed":
        # Its own 16-bit formats would round the trained weights: they stay as they are, and products are cast.
        return {"deepspeed": _zero(launch, autocast), "bf16": False, "fp16": False}
    # A router leaves experts without a token, whose gradients DDP would wait for.
    settings: dict[str, Any] = {"ddp_find_unused_parameters": routed}
    return {**settings, "ddp_backend": "gloo"} if device == "cpu" else settings


def _zero(launch: Launch, autocast: str | None) -> dict[str, Any]:
    """DeepSpeed's configuration; transformers fills in what is "auto" from the recipe's other values."""
    place = {"device": "cpu", "pin_memory": True}
    offload = {"offload_optimizer": place, **({"offload_param": place} if launch.zero == 3 else {})}
    return {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "torch_autocast": {
            "enabled": autocast is not None,
            "dtype": {"bf16": "bfloat16", "fp16": "float16"}.get(autocast or "", "bfloat16"),
        },
        "zero_optimization": {
            "stage": launch.zero,
            "stage3_gather_16bit_weights_on_model_save": True,
            **(offload if launch.offload else {}),
        },
        "zero_allow_untested_optimizer": True,
    }
