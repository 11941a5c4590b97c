"""TRL's DPOTrainer with our losses: one loss a pair, whatever lies in one forward pass.

A step's loss is the mean over all of its rows, and some losses look at all of them at once. ``batch.micro`` decides
only what one forward pass holds, so what a loss needs of the whole step is found out first, without gradients.

Letters: B rows of a micro-batch, S rows of the step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from torch import Tensor, nn
from trl import DPOConfig, DPOTrainer

from alignkit import ranks
from alignkit.evaluation.inference import reading
from alignkit.stages.dpo.losses import Scores, State, needs_kl, separable
from alignkit.stages.dpo.policy import mismatched_ratios, policy_scores
from alignkit.stages.dpo.recipe import DpoOptions
from alignkit.stages.dpo.step import Coefficients, coefficients, detached, joined, step_loss, surrogate
from alignkit.training.loop import TrainerParts
from alignkit.training.shares import ABSENT, FIRST_ROW, present
from alignkit.training.trainer import GuardedTrainer

LOSS_STATE = "loss_state.json"
"""In a checkpoint: what the losses remember from step to step."""


class NoReference(nn.Module):
    """Stands where TRL wants a reference model. Without one TRL would read the starting weights a second time, or add a
    second adapter; our reference is what the starting model said, from the cache."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config


class PreferenceTrainer(GuardedTrainer, DPOTrainer):  # type: ignore[misc]
    """Build it with :func:`build`."""

    options: DpoOptions
    figures: Callable[[Scores], Mapping[str, float]]
    """What metrics.jsonl says of a step."""
    begin: Callable[[PreferenceTrainer], None]
    state_of_loss: State
    _step: _Step

    def before_training(self) -> None:
        with same_random_numbers():
            self.begin(self)

    # --- one optimizer step --------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The micro-batches of a step, which are remembered: some losses look at all of them."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._step = _Step(batches, int(items))
        return batches, items

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor:
        """What the loss is divided by: the rows of the step."""
        return self.over_processes(_rows_of(batch_samples).to(device))

    def scored_tokens(self, inputs: dict[str, Any]) -> int:
        return int(inputs["score_labels"].numel())

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The micro-batch's share of the step's loss, ().

        The gradient is that of the mean over the step's rows also where a row's loss depends on the others: then each
        answer's log-probability is weighed with the step's gradient by it (chain rule; see step.py).

        A mixture of experts is held in balance as in TRL's trainers: its router's loss is added with the model's own
        coefficient, or that of `trl.router_aux_loss_coef` (0: not at all). It balances one forward pass at a time,
        so it alone depends on how many rows that holds.
        """
        if return_outputs:
            raise ValueError("the scores of answers are no model outputs")
        step = self._step
        if not step.begun:
            step.begun = True
            self._look_ahead(model, step)
        scores = self._scores(model, inputs, step, router=getattr(self, "aux_loss_enabled", False))
        rows = len(inputs["row_numbers"])
        if step.slopes is None:
            loss, _, self.state_of_loss = step_loss(scores, self.options, self.state_of_loss, rows=step.rows)
        else:
            at = step.places[step.passed]
            part = step.slopes[at : at + rows]
            # The value of the share, with the gradient of the surrogate.
            loss = surrogate(scores, part)
            loss = loss + (part.losses.sum() / step.rows - loss).detach()
            self.state_of_loss = step.slopes.state
        if scores.router is not None:
            loss = loss + self.router_aux_loss_coef * scores.router * (rows / step.rows)
            step.router += float(scores.router.detach()) * rows / step.rows
        if not step.absent[step.passed]:
            step.seen.append((step.places[step.passed], detached(scores)))
        step.passed += 1
        if step.passed == len(step.batches):
            self.logged = self.figures(_of_all(step.seen))
            if scores.router is not None:
                self.logged = {**self.logged, "router_loss": step.router}
        return self.share(loss)

    def _scores(self, model: Any, inputs: Mapping[str, Any], step: _Step, *, router: bool = False) -> Scores:
        if not step.margins:
            inputs = {name: value for name, value in inputs.items() if name != "margins"}
        return policy_scores(
            model,
            inputs,
            self.options,
            reference=inputs.get("reference"),
            kl=step.kl,
            mean_chosen_tokens=step.mean_chosen_tokens,
            router=router,
        )

    def _look_ahead(self, model: Any, step: _Step) -> None:
        """What the loss needs of the whole step before the first gradient of it."""
        if needs_kl(self.options):
            with reading(model):
                found = [self._mismatched(model, batch["mismatched"]) for batch in step.batches]
            step.kl = torch.cat([ratios for _, ratios in _everybodys(step.placed(found))]).mean()
        if separable(self.options) or (len(step.batches) == 1 and ranks.world() == 1):
            return
        # The same dropout as in the passes that follow: the coefficients belong to the log-probabilities of those.
        with torch.no_grad(), same_random_numbers():
            parts = [detached(self._scores(model, self._prepare_inputs(batch), step)) for batch in step.batches]
        step.slopes = coefficients(_of_all(step.placed(parts)), self.options, self.state_of_loss)

    def _mismatched(self, model: Any, batch: Mapping[str, Any]) -> Tensor:
        inputs: Mapping[str, Any] = self._prepare_inputs(batch)
        return mismatched_ratios(model, inputs, inputs["reference"])

    # --- what is told and what is kept -------------------------------------------------------------------------------

    logged: Mapping[str, float] = {}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The step's figures beside loss and learning rate."""
        super().log({**logs, **self.logged}, start_time)
        self.logged = {}

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        assert output_dir is not None
        if not self.args.should_save:
            return
        (Path(output_dir) / LOSS_STATE).write_text(json.dumps(dict(self.state_of_loss)), encoding="utf-8")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.state_of_loss = json.loads((Path(resume_from_checkpoint) / LOSS_STATE).read_text(encoding="utf-8"))


class _Step:
    """This process's micro-batches of an optimizer step, and what became of them so far. ``rows``: of all of them."""

    def __init__(self, batches: Sequence[Mapping[str, Any]], rows: int) -> None:
        self.batches, self.rows = batches, rows
        self.absent = [ABSENT in batch for batch in batches]
        """Which of them count for nothing."""
        numbers = [len(batch["row_numbers"]) for batch in batches]
        self.places = [batch.get(FIRST_ROW, sum(numbers[:at])) for at, batch in enumerate(batches)]
        """Where the rows of each begin in the step."""
        mine = present(batches)
        tokens = sum(int(batch["answer_tokens"][0::2].sum()) for batch in mine)
        answered, lacking = ranks.summed([tokens, sum("margins" not in batch for batch in mine)])
        self.mean_chosen_tokens = answered / max(1, self.rows)
        """Tokens of a chosen answer, on average over the step (of pairs)."""
        self.margins = not lacking
        """Whether all rows of the step have scores."""
        self.begun = False
        self.passed = 0
        """Micro-batches that have been through."""
        self.seen: list[tuple[int, Any]] = []
        """Where their rows begin, and their scores, without gradients; no stand-ins."""
        self.router = 0.0
        """The router's loss so far, a mean over the rows."""
        self.kl: Tensor | None = None
        self.slopes: Coefficients | None = None

    def placed(self, found: Sequence[Any]) -> list[tuple[int, Any]]:
        """What was found of each micro-batch with the place of its rows; of stand-ins, which pass through the model
        because all processes have to move together, nothing."""
        every = zip(self.places, self.absent, found, strict=True)
        return [(at, one) for at, absent, one in every if not absent]


def _rows_of(batches: Sequence[Mapping[str, Any]]) -> Tensor:
    """() how many rows some micro-batches have, stand-ins left out."""
    return torch.tensor(sum(len(batch["row_numbers"]) for batch in present(batches)))


def _everybodys(found: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """What all processes found of a step's micro-batches, in the order of its rows."""
    return sorted((one for of_rank in ranks.gathered(found) for one in of_rank), key=lambda one: one[0])


def _of_all(seen: list[tuple[int, Any]]) -> Any:
    """The scores of a whole step, from those of this process's micro-batches."""
    return joined([scores for _, scores in _everybodys(seen)])


def build(
    parts: TrainerParts,
    options: DpoOptions,
    *,
    figures: Callable[[Scores], Mapping[str, float]],
    begin: Callable[[PreferenceTrainer], None],
    lora_dropout: float,
) -> PreferenceTrainer:
    """The trainer of a run. ``lora_dropout``: kept where the recipe asks for it; TRL turns all other dropout off, so
    that the policy differs from its reference by what it learned alone."""
    config = DPOConfig(**parts.arguments, max_length=None)
    model = parts.loaded.model
    with without_bars():
        trainer = PreferenceTrainer(
            model=model,
            ref_model=NoReference(model.config),
            args=config,
            processing_class=parts.loaded.tokenizer,
            train_dataset=parts.sample,
            data_collator=parts.collate,
            callbacks=parts.callbacks,
            optimizers=(parts.optimizer, None),
        )
    trainer.ref_model = None
    if lora_dropout:
        for name, module in model.named_modules():
            if isinstance(module, nn.Dropout) and ".lora_dropout." in name:
                module.p = lora_dropout
    # The loss is divided by the step's rows already; older versions of transformers ask the second attribute.
    trainer.loss_is_scaled_for_ga = True
    trainer.model_accepts_loss_kwargs = True
    trainer.options, trainer.figures, trainer.begin, trainer.state_of_loss = options, figures, begin, {}
    return trainer


@contextmanager
def without_bars() -> Iterator[None]:
    """No progress bars over one row."""
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """What is drawn inside is drawn again afterwards."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        yield
