"""TRL's SFTTrainer with a teacher: the loss of a step is what the distilling head makes of the teacher's targets.

Letters: B rows of a micro-batch, T tokens, N labelled positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trl import SFTConfig, SFTTrainer

from alignkit import ranks
from alignkit.data.rows import UNTRAINED
from alignkit.stages.distill.crossing import PLACES, Crossing
from alignkit.stages.distill.hidden import HiddenStates
from alignkit.stages.distill.losses.spans import span_divergence
from alignkit.stages.distill.rollouts import Rollouts
from alignkit.teachers.teacher import Teacher
from alignkit.training.distilling_head import install_distilling_head
from alignkit.training.divergences import Objective
from alignkit.training.head import head_log_probs
from alignkit.training.loop import TrainerParts
from alignkit.training.targets import Targets
from alignkit.training.trainer import GuardedTrainer

PROJECTIONS = "projections.safetensors"
"""In a checkpoint: the learned maps of the hidden-state loss. They are no part of the student."""


class DistillTrainer(GuardedTrainer, SFTTrainer):  # type: ignore[misc]
    """Build it with :func:`build`."""

    objective: Objective
    teacher: Teacher
    tokens_in_common: int | None = None
    """Only so many first tokens of both vocabularies exist; None: all of the student's."""
    rollouts: Rollouts | None = None
    hidden: HiddenStates | None = None
    crossing: Crossing | None = None
    """Set where the teacher has another tokenizer."""

    def before_training(self) -> None:
        install_distilling_head(self.model, self.objective, vocabulary=self.tokens_in_common)
        self._figures = _Figures()

    # --- one optimizer step --------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The micro-batches of a step; on-policy, a part of their rows is answered anew by the student as it is."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.hidden is not None:
            self.hidden.projections.zero_grad()  # transformers' Trainer clears the gradients of the model only
        if self.rollouts is None or not batches:
            return batches, items
        with self.compute_loss_context_manager():
            batches = self.rollouts.answered(self.model, batches, step=self.state.global_step)
        self._figures.say(self.rollouts.figures())
        return batches, self._get_num_items_in_batch(batches, device)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """() the micro-batch's share of the step's loss: summed over the step, it is the mean over all of its labelled
        tokens (of their weights, where rows have some)."""
        inputs = {name: value for name, value in inputs.items() if name != "features"}
        self._figures.counting = not self._absent
        if self.crossing is not None:
            return self._crossed(model, inputs, self.crossing, num_items_in_batch)
        states: tuple[Tensor, ...] = ()
        targets: Targets
        if self.hidden is not None:
            targets, states = self.hidden.teacher.states(inputs)
        else:
            targets = self.teacher.targets(inputs)
        outputs = model(
            **inputs,
            targets=targets,
            num_items_in_batch=num_items_in_batch,
            **({"output_hidden_states": True} if self.hidden is not None else {}),
            **self._asked_of_router(),
        )
        loss = self._with_router(outputs.loss, outputs, num_items_in_batch)
        self._figures.add("divergence", outputs.divergence)
        if outputs.nll is not None:
            self._figures.add("nll", outputs.nll)
        if self.hidden is not None:
            found = self.hidden.loss(outputs.hidden_states, states, inputs)  # (N,)
            total = found.numel() if num_items_in_batch is None else num_items_in_batch
            loss = loss + self.hidden.weight * found.sum() / total
            self._figures.add("hidden", found.detach())
        loss = self.share(loss)
        return (loss, outputs) if return_outputs else loss

    def _crossed(
        self, model: Any, inputs: Mapping[str, Any], crossing: Crossing, num_items_in_batch: Tensor | int | None
    ) -> Tensor:
        """The same with a teacher of another tokenizer: compared is where both have read the same text."""
        found = crossing.read(inputs)
        labels, weights = inputs["labels"], inputs.get("loss_weights")
        mask = labels[:, 1:] != UNTRAINED  # (B, T-1)
        total = max(1, int(mask.sum())) if num_items_in_batch is None else num_items_in_batch
        again = bool(self.objective.ce) or len(found.spans) > 0
        outputs = model(
            **{name: value for name, value in inputs.items() if name not in ("labels", "loss_weights", PLACES)},
            targets=found.targets,
            positions=found.positions,
            position_labels=found.labels,
            # Cross entropy is of all labelled tokens, not only of those where both vocabularies meet.
            objective=replace(self.objective, ce=0.0),
            num_items_in_batch=total,
            **({} if weights is None else {"loss_weights": weights.flatten()[found.positions + 1]}),
            **({"output_hidden_states": True} if again else {}),
            **self._asked_of_router(),
        )
        self._figures.add("divergence", outputs.divergence)
        loss = self._with_router(outputs.loss, outputs, total, labels=int(mask.sum()))
        if not again:
            return loss
        states = outputs.hidden_states[-1][:, :-1][mask]  # (N, D)
        log_probs = head_log_probs(self.model, states, labels[:, 1:][mask])  # (N,)
        self._figures.add("nll", -log_probs)
        if self.objective.ce:
            own = log_probs if weights is None else log_probs * weights[:, 1:][mask].to(log_probs)
            loss = loss - self.objective.ce * own.sum() / total
        if len(found.spans):
            parts = span_divergence(log_probs[found.span_tokens], found.spans, found.span_log_probs)
            self._figures.add("spans", parts)
            loss = loss + self.objective.weight * parts.sum() / total
        return loss

    def _asked_of_router(self) -> dict[str, bool]:
        # TRL's trainer knows which models have a router, and whether trl.router_aux_loss_coef turns its loss off.
        return {"output_router_logits": True} if getattr(self, "aux_loss_enabled", False) else {}

    def _with_router(
        self, loss: Tensor, outputs: Any, num_items_in_batch: Tensor | int | None, *, labels: int | None = None
    ) -> Tensor:
        """The loss with that of a mixture of experts' router, by the model's own coefficient or that of
        `trl.router_aux_loss_coef`. A micro-batch counts by its share of the step's ``labels``."""
        if outputs.aux_loss is None:
            return loss
        own = outputs.token_losses.numel() if labels is None else labels
        share = 1.0 if num_items_in_batch is None else own / num_items_in_batch
        self._figures.weigh("router_loss", outputs.aux_loss, own)
        return loss + self.router_aux_loss_coef * share * outputs.aux_loss

    # --- what is learned beside the student ----------------------------------------------------------------------

    def create_optimizer(self, model: Any = None) -> Any:
        """The student's optimizer, with the projections as a group of its own."""
        optimizer = super().create_optimizer() if model is None else super().create_optimizer(model)
        if self.hidden is not None and (own := list(self.hidden.projections.parameters())):
            known = {id(one) for group in optimizer.param_groups for one in group["params"]}
            if id(own[0]) not in known:
                optimizer.add_param_group({"params": own, "weight_decay": 0.0})
        return optimizer

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self.hidden is not None and (state := self.hidden.projections.state_dict()):
            from safetensors.torch import save_file

            assert output_dir is not None
            save_file({k: v.cpu().contiguous() for k, v in state.items()}, Path(output_dir) / PROJECTIONS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.hidden is not None and self.hidden.projections.state_dict():
            from safetensors.torch import load_file

            self.hidden.projections.load_state_dict(load_file(Path(resume_from_checkpoint) / PROJECTIONS))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The step's figures beside loss and learning rate."""
        super().log({**logs, **self._figures.taken()} if "loss" in logs else logs, start_time)


class _Figures:
    """Means over the labelled tokens of a step, and what else is to be told of it."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.told: dict[str, float] = {}
        self.counting = True
        """Off while a stand-in passes through the model."""

    def add(self, name: str, values: Tensor) -> None:
        if not self.counting:
            values = values[:0]
        # Sums stay on the device until the step is told: nothing waits for them.
        total = values.detach().float().sum()
        self.sums[name] = self.sums[name] + total if name in self.sums else total
        self.counts[name] = self.counts.get(name, 0) + values.numel()

    def weigh(self, name: str, value: Tensor, times: int) -> None:
        """A value that is one for ``times`` tokens."""
        self.add(name, value.detach().float() * times)
        self.counts[name] += times - 1 if self.counting else 0

    def say(self, figures: Mapping[str, float]) -> None:
        self.told |= figures

    def taken(self) -> dict[str, float]:
        names = list(self.sums)
        sums = ranks.summed([float(self.sums[name]) for name in names])
        counts = ranks.summed([self.counts[name] for name in names])
        found = {name: total / max(1, count) for name, total, count in zip(names, sums, counts, strict=True)}
        found |= self.told
        self.sums, self.counts, self.told = {}, {}, {}
        return found


def build(
    parts: TrainerParts,
    objective: Objective,
    teacher: Teacher,
    *,
    tokens_in_common: int | None,
    rollouts: Rollouts | None,
    hidden: HiddenStates | None,
    crossing: Crossing | None,
) -> DistillTrainer:
    """The trainer of a run."""
    config = SFTConfig(
        **parts.arguments,
        # Rows come tokenized, masked and cut from our data room.
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
    )
    trainer = DistillTrainer(
        model=parts.loaded.model,
        args=config,
        processing_class=parts.loaded.tokenizer,
        train_dataset=parts.sample,
        data_collator=parts.collate,
        callbacks=parts.callbacks,
        optimizers=(parts.optimizer, None),
    )
    # The loss is divided by the step's tokens already; older versions of transformers ask the second attribute.
    trainer.loss_is_scaled_for_ga = True
    trainer.model_accepts_loss_kwargs = True
    trainer.objective, trainer.teacher, trainer.tokens_in_common = objective, teacher, tokens_in_common
    trainer.rollouts, trainer.hidden, trainer.crossing = rollouts, hidden, crossing
    return trainer
