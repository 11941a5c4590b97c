"""Options of TRL's config classes that alignkit sets itself: our name for each, or why there is none."""

from __future__ import annotations

OWNED: dict[str, tuple[str, str]] = {
    "learning_rate": ("optimizer.learning_rate", ""),
    "optim": ("optimizer.name", ""),
    "weight_decay": ("optimizer.weight_decay", ""),
    "adam_beta1": ("optimizer.beta1", ""),
    "adam_beta2": ("optimizer.beta2", ""),
    "adam_epsilon": ("optimizer.epsilon", ""),
    "max_grad_norm": ("optimizer.max_grad_norm", ""),
    "num_train_epochs": ("schedule.epochs", ""),
    "max_steps": ("schedule.max_steps", ""),
    "warmup_steps": ("schedule.warmup", ""),
    "warmup_ratio": ("schedule.warmup", ""),
    "lr_scheduler_type": ("schedule.decay", ""),
    "early_stopping_patience": ("schedule.patience", ""),
    "load_best_model_at_end": ("schedule.patience", ""),
    "per_device_train_batch_size": ("batch.micro", ""),
    "gradient_accumulation_steps": ("batch.size", "it follows from batch.size and batch.micro"),
    "auto_find_batch_size": ("batch.micro", "batch.micro=auto finds it"),
    "per_device_eval_batch_size": ("evaluation.batch", ""),
    "gradient_checkpointing": ("memory.gradient_checkpointing", ""),
    "activation_checkpointing": ("memory.gradient_checkpointing", ""),
    "max_length": ("data.max_length", ""),
    "truncation_mode": ("data.overlength", ""),
    "packing": ("data.packing", ""),
    "padding_free": ("data.packing", ""),
    "packing_strategy": ("data.packing", ""),
    "eval_packing": ("data.packing", ""),
    "group_by_length": ("data.group_by_length", ""),
    "train_sampling_strategy": ("data.group_by_length", ""),
    "assistant_only_loss": ("data.train_on", ""),
    "completion_only_loss": ("data.train_on", ""),
    "chat_template_path": ("", "the tokenizer's own template is used"),
    "shuffle_dataset": ("", "the order follows from seed"),
    "bf16": ("model.dtype", ""),
    "fp16": ("model.dtype", ""),
    "model_init_kwargs": ("model.dtype", "a model is loaded by the section `model`"),
    "trust_remote_code": ("model.trust_remote_code", ""),
    "seed": ("seed", ""),
    "data_seed": ("seed", ""),
    "report_to": ("report_to", ""),
    "output_dir": ("run.root", "each run has a directory of its own under run.root"),
    "run_name": ("", "a run is named by its stage and key"),
    "resume_from_checkpoint": ("", "the same command resumes by itself; --fresh starts anew"),
    "push_to_hub": ("", "alignkit writes to a local directory; upload it with `hf upload`"),
    "metric_for_best_model": ("schedule.patience", ""),
    "greater_is_better": ("schedule.patience", ""),
    "do_train": ("", "the stage decides it"),
    "do_eval": ("evaluation.rows", ""),
    "do_predict": ("", "the stage decides it"),
    "use_cpu": ("", "the device is chosen from what the machine has"),
    "use_liger_kernel": ("", "alignkit computes the loss itself"),
    "liger_kernel_config": ("", "alignkit computes the loss itself"),
    "label_smoothing_factor": ("", "the loss has no label smoothing"),
    "remove_unused_columns": ("", "alignkit prepares the rows itself"),
    "label_names": ("", "alignkit prepares the rows itself"),
    "length_column_name": ("", "alignkit prepares the rows itself"),
    "pad_token": ("", "the tokenizer's own is used"),
    "eos_token": ("", "the tokenizer's own is used"),
    "disable_tqdm": ("", "alignkit shows its own progress; -q silences it"),
    "ignore_data_skip": ("", "resuming is exact"),
    "prediction_loss_only": ("", "alignkit evaluates itself: see the section `evaluation`"),
    "dataloader_drop_last": ("", "every row is trained on"),
}
"""TRL's name to (our key, reason); one of the two may be empty."""

OWNED_PREFIXES: dict[str, tuple[str, str]] = {
    "hub_": ("", "alignkit writes to a local directory; upload it with `hf upload`"),
    "save_": ("checkpoint.every", "checkpoints are the section `checkpoint`"),
    "eval_": ("evaluation.every", "evaluation is the section `evaluation`"),
    "logging_": ("", "every step is written to metrics.jsonl"),
    "log_": ("", "-q and -v choose what is shown"),
    "dataset_": ("data.name", "alignkit prepares the rows itself: see the section `data`"),
    "trackio_": ("report_to", ""),
    "fsdp": ("", "alignkit sets up the devices itself"),
    "deepspeed": ("", "alignkit sets up the devices itself"),
    "accelerator_config": ("", "alignkit sets up the devices itself"),
    "parallelism_config": ("", "alignkit sets up the devices itself"),
}
"""The same for families of options."""


def owned(key: str) -> tuple[str, str] | None:
    """Our key and the reason for an option that alignkit sets itself; None for one that a user may pass."""
    if key in OWNED:
        return OWNED[key]
    return next((answer for prefix, answer in OWNED_PREFIXES.items() if key.startswith(prefix)), None)
