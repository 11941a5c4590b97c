"""What every TRL trainer inherits here: guards, exact checkpoints, our data order, and the scoring head's place.

``class SupervisedTrainer(GuardedTrainer, SFTTrainer)``: the mixin comes first, so that it stands around TRL's methods.
It hooks the methods that transformers' Trainer offers for overriding and leaves the loop itself alone.
"""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from alignkit import ranks
from alignkit.config.sections import Launch
from alignkit.console import log
from alignkit.errors import NumericsError, RunError
from alignkit.models.adapters import TRAINED
from alignkit.runs.directory import RunDirectory
from alignkit.training import checkpoints, sharded, zero
from alignkit.training.meter import Meter
from alignkit.training.shares import ABSENT, FIRST_ROW, Shares, loader, present

if TYPE_CHECKING:
    from transformers import Trainer as _Base
else:
    _Base = object

ROWS_NAMED = 8
STATES = {"sgd": 0, "adafactor": 0}
"""Optimizer states of a parameter's size; of those that are not named here, two."""
ADAPTER_WEIGHTS = "adapter_model.safetensors"
OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"


class GuardedTrainer(_Base):  # type: ignore[misc]
    """Mixin over a transformers ``Trainer``; call ``prepare_guards`` once after construction."""

    run_directory: RunDirectory
    meter: Meter
    keep_checkpoints: int
    best_checkpoint: Path | None = None
    row_order: Any = None
    step_size: int = 1
    _step_rows: list[str]
    sharding: Launch | None = None
    """How weights are split over the processes; None: each has all of them."""
    _weights_stand: bool = False
    """They were loaded from the checkpoint before they were sharded."""
    _absent: bool = False
    """The micro-batch that passes through the model counts for nothing."""
    _committing: Path | None = None
    _sealing: checkpoints.Sealing

    def prepare_guards(self, run: RunDirectory, meter: Meter, *, keep: int, row_order: Any, step_size: int) -> None:
        """Give the trainer its run directory, its meter, how many checkpoints to keep, the order of the rows, and how
        many of them a step takes."""
        self.run_directory, self.meter, self.keep_checkpoints = run, meter, keep
        self.row_order, self.step_size = row_order, step_size
        self._step_rows = []

    def before_training(self) -> None:
        """Called once when everything stands and the weights are those of the start, also before a resume."""

    # --- the numbers -------------------------------------------------------------------------------------------

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """Forward and backward of one micro-batch; a loss that is not finite ends the run before any weight moves."""
        rows = inputs.get("rows", [])
        self._absent = inputs.get(ABSENT, False)
        inputs = {name: value for name, value in inputs.items() if name not in ("rows", ABSENT, FIRST_ROW)}
        if not self._absent:
            self._step_rows.extend(rows)
            self.meter.tokens += _tokens(inputs, len(rows))
            self.meter.labelled += self.scored_tokens(inputs)
            self.meter.rows += len(rows)
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not bool(torch.isfinite(loss)):
            self._refuse(f"the loss is {float(loss)}", rows)
        return loss

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """TRL's, of its share in the step's; see ``share`` for losses of our own."""
        found = super().compute_loss(model, inputs, *args, **kwargs)
        if not self._absent:
            return found
        return (found[0] * 0.0, *found[1:]) if isinstance(found, tuple) else found * 0.0

    def share(self, loss: Any) -> Any:
        """A micro-batch's share of the step's loss, for the gradients' mean over the processes to be the step's."""
        return loss * (0.0 if self._absent else float(ranks.world()))

    def over_processes(self, count: Any) -> Any:
        """What all processes have of a step, from what this one has."""
        return self.accelerator.gather(count.reshape(1)).sum() if ranks.world() > 1 else count

    def scored_tokens(self, inputs: dict[str, Any]) -> int:
        """Tokens of a batch that carry loss."""
        return int((inputs["labels"] != -100).sum())

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """What the loss is divided by: the labelled tokens of the step, or the sum of their weights."""
        if ranks.world() == 1 and not any("loss_weights" in batch for batch in batch_samples):
            return super()._get_num_items_in_batch(batch_samples, device)
        total = torch.zeros((), device=device)
        for batch in present(batch_samples):
            labelled = batch["labels"][..., 1:] != -100
            weights = batch.get("loss_weights")
            total += (labelled.sum() if weights is None else weights[..., 1:][labelled].sum()).to(device)
        return self.over_processes(total)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        value = float(norm)
        # With fp16, the gradient scaler skips such a step by itself and lowers its scale.
        if not math.isfinite(value) and self.accelerator.scaler is None:
            self._refuse(f"the gradient norm is {value}", self._step_rows)
        self._step_rows = []
        return norm

    def _refuse(self, what: str, rows: list[str]) -> None:
        named = ", ".join(rows[:ROWS_NAMED]) + (f" and {len(rows) - ROWS_NAMED} more" if len(rows) > ROWS_NAMED else "")
        last = checkpoints.all_checkpoints(self.run_directory.checkpoints)
        kept = f"The last good checkpoint is {last[0]}." if last else "No checkpoint had been written yet."
        raise NumericsError(
            f"At step {self.state.global_step + 1} {what}; the run stops before this step changes the weights. "
            f"Rows of the step: {named or 'unknown'}. {kept} "
            "A lower optimizer.learning_rate, a longer schedule.warmup or model.dtype=fp32 helps most often."
        )

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: walking all parameters at every step costs more than the figure, which nothing here reads."""
        return 0

    # --- the order of the rows ---------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.row_order

    def get_train_dataloader(self) -> Any:
        """Batches of the epoch; of several processes, each has its own share of every step."""
        if ranks.world() == 1:
            return super().get_train_dataloader()
        micro = self.args.per_device_train_batch_size
        shares = Shares(self.row_order, size=self.step_size, micro=micro, rank=ranks.rank(), world=ranks.world())
        return loader(
            self.train_dataset,
            shares,
            self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )

    # --- checkpoints -------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._committing or self.args.output_dir)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Let the Trainer write into a staging folder, then digest, flush and rename what it wrote."""
        began = time.perf_counter()
        directory = Path(self.args.output_dir)
        known = checkpoints.all_checkpoints(directory) if ranks.is_first() else []
        if known:
            when = f"The checkpoint of step {self.state.global_step} was not written"
            checkpoints.require_room(directory, checkpoints.size(known[0]), when=when)
        self._committing = Path(ranks.from_first(lambda: str(checkpoints.staging(directory))))
        staged = self._committing / f"checkpoint-{self.state.global_step}"
        try:
            with checkpoints.Sealing(staged) as self._sealing:
                super()._save_checkpoint(model, trial)
                ranks.wait()
                final = ranks.from_first(lambda: str(checkpoints.commit(staged, directory, self._sealing)))
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = checkpoints.refusal(error)
            if reason is None:
                raise
            raise RunError(
                f"The checkpoint of step {self.state.global_step} could not be written: {reason}. "
                "Earlier checkpoints are intact; make room and run the same command to go on."
            ) from error
        finally:
            if ranks.is_first():
                shutil.rmtree(self._committing, ignore_errors=True)
            self._committing = None
            self.meter.paused += time.perf_counter() - began
        log.detail(f"checkpoint {final}")
        if ranks.is_first():
            checkpoints.prune(directory, self.keep_checkpoints, spare=self.best_checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Of a PeftModel only the adapter that is trained; frozen ones beside it come with the model."""
        if not hasattr(self.model, "peft_config"):
            super()._save(output_dir, state_dict)
            return
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        assert output_dir is not None
        if not self.args.should_save:
            return
        state = get_peft_model_state_dict(self.model, state_dict, adapter_name=TRAINED, save_embedding_layers=False)
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, Path(output_dir) / ADAPTER_WEIGHTS)

    def checkpoint_bytes(self) -> int:
        """About how large a checkpoint will be: what is trained, its optimizer states, and all weights where there is
        no adapter."""
        trained = [one for one in self.model.parameters() if one.requires_grad]
        weights = trained if hasattr(self.model, "peft_config") else list(self.model.parameters())
        states = STATES.get(str(self.args.optim).rpartition(".")[2].lower(), 2)
        each = sum(one.numel() * (1 if "8bit" in str(self.args.optim) else one.element_size()) for one in trained)
        return int(sum(one.numel() * one.element_size() for one in weights) + states * each)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Weights that lie in shards are put together first; what is written is digested while the rest is."""
        if not self.sharding:
            super().save_model(output_dir, _internal_call)
        else:
            adapter = hasattr(self.model, "peft_config")
            state = sharded.whole_weights(self.model, trained=adapter, keep=ranks.is_first())
            if ranks.is_first():
                self._save(output_dir, state)
        if self._committing is not None and ranks.is_first():
            self._sealing.look()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.sharding:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = sharded.whole_optimizer_state(self.optimizer, keep=ranks.is_first())
        if ranks.is_first():
            torch.save(state, Path(output_dir) / OPTIMIZER)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.sharding or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        state = torch.load(Path(checkpoint) / OPTIMIZER, map_location="cpu", weights_only=True)
        sharded.load_optimizer_state(self.optimizer, state)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER, weights_only=True))

    def run(self, checkpoint: Path | None) -> None:
        """Train from a checkpoint, or from the start. The model is an ordinary one before and after."""
        start = str(checkpoint) if checkpoint else None
        when = "Nothing was trained"
        checkpoints.require_room(Path(self.args.output_dir), self.checkpoint_bytes(), when=when)
        if checkpoint is not None:
            zero.require_same(checkpoint, deepspeed=self.is_deepspeed_enabled)
        if self.sharding is None:
            self.train(resume_from_checkpoint=start)
            if self.is_deepspeed_enabled:
                zero.unwrap(self.deepspeed, keep=ranks.is_first())
            return
        if start is not None:
            self._load_from_checkpoint(start)  # while the weights are whole
        with sharded.in_shards(self.model, self.accelerator, self.sharding, keep=ranks.is_first()):
            self._weights_stand = True
            try:
                self.train(resume_from_checkpoint=start)
            finally:
                self._weights_stand = False

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self._weights_stand:
            return
        if not hasattr(self.model, "peft_config"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        state = load_file(Path(resume_from_checkpoint) / ADAPTER_WEIGHTS)
        set_peft_model_state_dict(self.model, state, adapter_name=TRAINED)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Where the random numbers went on; a checkpoint of another number of processes cannot say."""
        alone = ranks.world() == 1
        name = "rng_state.pth" if alone else f"rng_state_{ranks.rank()}.pth"
        if checkpoint is None or (Path(checkpoint) / name).exists():
            super()._load_rng_state(checkpoint)
            return
        torch.manual_seed(self.args.seed + self.state.global_step + 1_000_003 * ranks.rank())
        log.say("the checkpoint is one of another number of processes: dropout, if any, goes on with other numbers")

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Cards are written with the result, from what was measured; not with every checkpoint."""


def _tokens(inputs: dict[str, Any], rows: int) -> int:
    """Tokens of a batch of so many rows, without padding."""
    mask, lengths = inputs.get("attention_mask"), inputs.get("document_lengths")
    if mask is not None:
        return int(mask.sum())
    return sum(lengths[:rows]) if lengths is not None and rows else int(inputs["input_ids"].numel())
