"""One optimizer-step loop over rollouts, whatever the algorithm: a trainer whose batches come from the rollout in hand.

The data loader only counts steps. Before each one a mini-batch is taken from the rollout in hand, and when that one's
passes are done another is made. A mini-batch goes through the model in parts of `batch.micro` answers, whose losses are
shares of its loss, so that `batch.micro` decides nothing but memory.

Letters: A answers of a part, N tokens of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignkit.data.branching import Collator
from alignkit.rollouts.rollout import Rollout
from alignkit.rollouts.rows import branched, micro_batches
from alignkit.rollouts.scoring import TokenScores, score_batch
from alignkit.stages.rlhf.ahead import Ahead, one_pass, random_state, same_state
from alignkit.stages.rlhf.figures import rollout_figures
from alignkit.stages.rlhf.making import Hand, RolloutMaker
from alignkit.stages.rlhf.minibatches import mini_batches
from alignkit.stages.rlhf.recipe import RlhfOptions
from alignkit.stages.rlhf.recipe_algorithms import Settled
from alignkit.stages.rlhf.value_function import FILE as VALUE_FILE
from alignkit.stages.rlhf.value_function import ValueFunction
from alignkit.training.trainer import GuardedTrainer


@dataclass
class MiniBatch:
    """The answers of one optimizer step, and what is known of the whole of them."""

    hand: Hand
    numbers: list[int]
    """Places in the rollout."""
    fresh: bool
    """Whether the policy has not moved since it drew them: then the ratio is 1 by definition, and no rounding of
    another batch's shape is taken for one."""
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def rollout(self) -> Rollout:
        return self.hand.rollout

    @property
    def tokens(self) -> int:
        """Of all its answers."""
        return int(self.rollout.tokens[self.numbers].sum()) if self.numbers else 0

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """Shares of the mini-batch's figures."""
        for name, value in figures.items():
            self.figures[name] = self.figures.get(name, 0.0) + float(value)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a trainer is told beside what every trainer is."""

    options: RlhfOptions
    settled: Settled
    maker: RolloutMaker
    collate: Collator
    micro: int
    """Answers of a forward pass."""
    size: int
    """Answers of an optimizer step in a full rollout."""
    seed: int
    value: ValueFunction | None = None

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps that a rollout is good for."""
        return self.settled.epochs * (self.options.prompts * self.options.samples // self.size)


class RolloutTrainer(GuardedTrainer):
    """Mixin over a transformers ``Trainer``; give it its ``setting`` once it is built. A subclass says what the loss of
    a part is."""

    setting: Setting
    mini: MiniBatch
    logged: Mapping[str, float] = {}
    router_weight: float = 0.0
    """Of the loss that balances the load of a mixture's experts."""
    reads_ahead: bool = True
    """Whether a step's parts are answers as they come, so that reading them may be its forward pass (see ahead.py)."""
    _ahead: Ahead | None = None

    def part_loss(self, model: Any, inputs: dict[str, Any], mini: MiniBatch) -> Tensor:
        """() this part's share of the mini-batch's loss, with gradient; figures go to ``mini``."""
        raise NotImplementedError

    # --- one optimizer step --------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The mini-batch of the step that comes, in the place of what the loader counted."""
        super().get_batch_samples(epoch_iterator, num_batches, device)
        setting, step = self.setting, self.state.global_step
        inside = step % setting.steps_per_rollout
        # What a reward of the user's draws must not decide what dropout draws, nor be drawn again after a resume.
        with same_random_numbers():
            hand = setting.maker.hand if inside else setting.maker.make(self.model, step=step, reader=self.read_ahead)
        assert hand is not None, "a checkpoint in the middle of a rollout holds it"
        self.mini = self._mini_batch(hand, inside)
        self.logged = {}
        if not inside:
            coefficient = setting.maker.crediting.coefficient
            self.logged = {**rollout_figures(hand.rollout, hand.counted), "kl_coefficient": coefficient}
        return [{"mini": self.mini}], torch.tensor(1, device=device)

    def read_ahead(self, rollout: Rollout) -> TokenScores | None:
        """What the policy says of a rollout, out of the forward of the step that comes, where one pass is both."""
        setting, self._ahead = self.setting, None
        device = self.args.device
        alone = self.accelerator.num_processes == 1 and len(rollout) == setting.size
        if not (self.reads_ahead and alone) or self.passes() != ("all",):
            return None
        part = one_pass(rollout, micro=setting.micro, batch=setting.options.batch, device=device)
        if part is None:
            return None
        before = random_state()
        self.model.train()
        with self.compute_loss_context_manager():
            inputs = self._prepare_inputs({**self.batch(rollout, part, fresh=True), "about": "all"})
            ahead = Ahead(part, self.scores(self.model, inputs))
        if not same_state(before, random_state()):
            self.reads_ahead = False
            return None
        self._ahead = ahead
        return ahead.read(rollout)

    def _mini_batch(self, hand: Hand, inside: int) -> MiniBatch:
        setting, options = self.setting, self.setting.options
        answers = options.prompts * options.samples
        epoch, at = divmod(inside, answers // setting.size)
        parts = mini_batches(
            hand.counted,
            answers=answers,
            samples=options.samples,
            size=setting.size,
            seed=setting.seed,
            rollout=hand.rollout.number,
            epoch=epoch,
        )
        return MiniBatch(hand, parts[at], fresh=inside == 0)

    def parts(self, mini: MiniBatch) -> list[list[int]]:
        """Places of the answers of each forward pass."""
        return micro_batches(mini.rollout.answers, mini.numbers, self.setting.micro)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """Forward and backward of all parts of the mini-batch. Where nothing is left to learn from, nothing moves."""
        mini: MiniBatch = inputs["mini"]
        total, parts = torch.zeros((), device=self.args.device), self.parts(mini)
        if self._ahead is not None and parts != [self._ahead.part]:
            self._ahead = None  # answers were left out
        for part in parts:
            for about in self.passes():
                with self.reading_as(about):
                    batch = {**self.batch(mini.rollout, part, fresh=mini.fresh), "about": about}
                    total = total + super().training_step(model, batch, num_items_in_batch)
        if not mini.figures and self.accelerator.scaler is not None:
            # The scaler of fp16 refuses a step without a single gradient.
            for parameter in filter(lambda one: one.requires_grad, model.parameters()):
                parameter.grad = torch.zeros_like(parameter)
        self.logged = {**self.logged, **mini.figures}
        return total

    def passes(self) -> Sequence[str]:
        """What a part goes through the model for: once for all, or for the policy and for the values apart."""
        value = self.setting.value
        return ("all",) if value is None or not value.apart else ("policy", "values")

    @contextmanager
    def reading_as(self, about: str) -> Iterator[None]:
        """The model as the pass wants it, backward included."""
        value = self.setting.value
        with value.active() if value is not None and about == "values" else nullcontext():
            yield

    def batch(self, rollout: Rollout, part: Sequence[int], *, fresh: bool) -> dict[str, Any]:
        """Some answers as the model reads them, with what is known of their tokens, (N,) each."""
        answers = [rollout.answers[place] for place in part]
        found: dict[str, Any] = dict(self.setting.collate(branched(answers)))
        known = {
            "old": None if fresh else rollout.policy,
            "reference": rollout.reference,
            "advantages": rollout.advantages,
            "values": rollout.values,
            "returns": rollout.returns,
        }
        return {**found, "known": {k: rollout.pick(v, part) for k, v in known.items() if v is not None}}

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """(): see ``part_loss``."""
        if return_outputs:
            raise ValueError("the scores of answers are no model outputs")
        return self.part_loss(model, inputs, self.mini)

    def scores(self, model: Any, inputs: Mapping[str, Any]) -> TokenScores:
        """What the model says of the part's tokens, by what the pass is for."""
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            return ahead.found
        setting, about = self.setting, inputs.get("about", "all")
        head = setting.value.head if setting.value is not None and about != "policy" else None
        return score_batch(
            model,
            inputs,
            temperature=setting.options.temperature,
            wanted=() if about == "values" else ("log_probs", "entropy"),
            value_head=head,
            router=bool(self.router_weight) and about != "values",
        )

    def with_router(
        self, loss: Tensor, router: Tensor | None, answers: int, mini: MiniBatch, *, of: int | None = None
    ) -> Tensor:
        """The loss with that of a mixture's router. ``answers`` of ``of`` (None: the mini-batch's) are in this part."""
        if router is None:
            return loss
        share = answers / (of or len(mini.numbers))
        mini.add({"router_loss": router.detach() * share})
        return loss + self.router_weight * router * share

    def scored_tokens(self, inputs: dict[str, Any]) -> int:
        return int(inputs["score_labels"].numel())

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """To the device; TRL's trainers would draw answers here."""
        found: dict[str, Any] = self._prepare_input(inputs)
        return found

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        return None  # a part's loss is a share already

    # --- what learns ---------------------------------------------------------------------------------------------

    def create_optimizer(self, model: Any = None) -> Any:
        """As ever, with the value function's weights in a group of their own."""
        optimizer = super().create_optimizer(model)
        value = self.setting.value
        if value is not None:
            own = value.parameters()
            known = {id(parameter) for parameter in own}
            for group in optimizer.param_groups:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in known]
            rate = self.setting.options.value.learning_rate or self.args.learning_rate
            optimizer.add_param_group({"params": own, "lr": rate, "weight_decay": 0.0})
        return optimizer

    def _clip_grad_norm(self, model: Any) -> Any:
        """Clips the policy's gradient and returns its norm. That of the value function's own weights is clipped by
        itself: its size goes with the rewards', and in one norm with it the policy would get little of a step."""
        value = self.setting.value
        if value is None:
            return super()._clip_grad_norm(model)
        own = value.parameters()
        known = {id(parameter) for parameter in own}
        limit = self.args.max_grad_norm
        policy = [parameter for parameter in model.parameters() if id(parameter) not in known]
        norm = self.accelerator.clip_grad_norm_(policy, limit)  # undoes the scale of fp16, for all weights
        of_value = torch.nn.utils.clip_grad_norm_(own, limit)
        self.logged = {**self.logged, "value_grad_norm": float(of_value)}
        return norm

    # --- what is told and what is kept -----------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The step's figures beside loss and learning rate."""
        if hasattr(self, "_metrics"):  # TRL's own, of single forward passes
            self._metrics["train"].clear()
        super().log({**logs, **self.logged}, start_time)
        self.logged = {}

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        assert output_dir is not None
        setting = self.setting
        left = self.state.global_step % setting.steps_per_rollout != 0
        setting.maker.save(Path(output_dir), in_hand=left)
        if setting.value is not None:
            setting.value.save(Path(output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.setting.maker.load(Path(resume_from_checkpoint))
        if self.setting.value is not None and (Path(resume_from_checkpoint) / VALUE_FILE).exists():
            self.setting.value.load(Path(resume_from_checkpoint))


def router_coefficient(model: Any) -> float:
    """Weight of the load-balancing loss of a mixture of experts, as the model's config has it; 0 for other models."""
    text = model.config.get_text_config()
    return float(getattr(text, "router_aux_loss_coef", 0.0)) if hasattr(text, "output_router_logits") else 0.0


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """What is drawn inside is drawn again afterwards."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        yield
