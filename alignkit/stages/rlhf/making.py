"""A rollout is made: the present policy answers, the rewards judge, policy and reference are read, and it is credited.

Nothing here draws from torch's random numbers: what is drawn depends on the seed, the rollout and the prompt alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from alignkit.console import log
from alignkit.data.branching import Collator
from alignkit.data.prompts import Prompts
from alignkit.errors import NumericsError, RunError
from alignkit.rewards.mixture import Rewards
from alignkit.rollouts.drawing import draw
from alignkit.rollouts.judging import judge
from alignkit.rollouts.rollout import Rolled, Rollout
from alignkit.rollouts.rows import branched
from alignkit.rollouts.scoring import TokenScores, score
from alignkit.rollouts.texts import FILE, RolloutTexts
from alignkit.stages.rlhf.arithmetic.ragged import sums
from alignkit.stages.rlhf.crediting import Crediting
from alignkit.stages.rlhf.prompts import PromptStream
from alignkit.stages.rlhf.recipe import RlhfOptions
from alignkit.stages.rlhf.value_function import ValueFunction
from alignkit.training.memory import is_out_of_memory

STATE, ROLLOUT = "policy_state.json", "rollout.safetensors"
"""In a checkpoint: what the algorithm remembers, and the rollout in hand."""
UNJUDGED = 3
"""Rollouts in a row without a single reward that end a run although rewards may fail (`rlhf.on_error=skip`)."""
Reader: TypeAlias = Callable[[Rollout], TokenScores | None]
"""Reads the policy's side of a rollout, or leaves it to the maker."""
ROUNDING = {True: 2.0, False: 1e-2}
"""Nats an answer that policy and reference may differ by before the first step, by whether numbers are 16 bits: other
neighbours in a batch and another order of sums. Beyond it the reference is another model."""


@dataclass
class Hand:
    """The rollout in hand."""

    rollout: Rollout
    counted: list[int]
    """Places of the answers that take part, ascending."""


@dataclass
class RolloutMaker:
    """What the rollouts of a run are made with. ``make`` goes from one to the next; ``save`` and ``load`` keep where it
    is, so that a run goes on in the middle of a rollout as if it had not stopped."""

    options: RlhfOptions
    prompts: Prompts
    tokenizer: Any
    rewards: Rewards
    crediting: Crediting
    stream: PromptStream
    collate: Collator
    texts: RolloutTexts
    seed: int
    reference: Callable[[Any], AbstractContextManager[Any]] | None
    """The reference beside a policy; None: nothing asks for it."""
    autocast: str | None = None
    coarse: bool = False
    """Whether the policy computes in 16 bits."""
    value: ValueFunction | None = None
    hand: Hand | None = None
    made: int = 0
    """Rollouts so far."""
    _cut: bool = field(default=False, init=False)
    _unjudged: int = field(default=0, init=False)
    """Rollouts in a row without a single reward."""

    def make(self, model: Any, *, step: int, reader: Reader = lambda rollout: None) -> Hand:
        """The next rollout of ``model`` after ``step`` optimizer steps, credited.

        ``reader``: who reads the policy's log-probabilities, entropy and values in the maker's place, if it does.
        Raises NumericsError where a reward gives no number and that is not skipped, RunError where memory runs out.
        """
        self.hand = None
        try:
            answers = self._answers(model)
            rollout = Rollout.of(self.made, answers)
            self._read(model, rollout, reader)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise RunError(
                f"The memory does not hold {self.options.batch} answers at a time while they are written or read. "
                f"Write rlhf.batch={max(1, self.options.batch // 2)}: the run goes on where it stopped, and the "
                "answers stay the same."
            ) from error
        _require_numbers(rollout)
        if self.made == 0 and step == 0:
            self._require_reference(rollout)
        counted = self.crediting.credit(rollout)
        self._tell(rollout)
        if not self._cut:  # what a run that was cut off wrote of rollouts that are made again
            self.texts.truncate(self.made)
            self._cut = True
        self.texts.keep(rollout, self.prompts, step=step)
        self.made += 1
        self.hand = Hand(rollout, torch.nonzero(counted).flatten().tolist())
        return self.hand

    # --- its parts ---------------------------------------------------------------------------------------------------

    def _answers(self, model: Any) -> list[Rolled]:
        """Judged answers, prompt by prompt."""
        options = self.options
        answers = self._drawn(model, self.stream.take(options.prompts))
        if options.zero_variance != "resample":
            return answers
        # Dynamic sampling (Yu et al. 2025, section 3.2): what teaches nothing gives way to further prompts.
        asked = {answer.prompt for answer in answers}
        for _ in range(options.max_draws - 1):
            useful, level = self._parted(answers)
            missing = options.prompts - len(useful) // options.samples
            numbers = self.stream.take(missing, without=sorted(asked)) if missing else []
            if not numbers:
                break
            asked |= set(numbers)
            # Those that teach nothing stay behind, for the case that nothing better is found.
            answers = [*useful, *self._drawn(model, numbers), *level]
        useful, level = self._parted(answers)
        return [*useful, *level][: options.prompts * options.samples]

    def _drawn(self, model: Any, numbers: Sequence[int]) -> list[Rolled]:
        options = self.options
        with self._computing(model):
            answers = draw(
                model,
                self.tokenizer,
                self.prompts,
                numbers,
                samples=options.samples,
                max_new_tokens=options.max_new_tokens,
                temperature=options.temperature,
                top_p=options.top_p,
                seed=self.seed,
                number=self.made,
                batch=options.batch,
            )
        return judge(answers, self.prompts, self.rewards)

    def _parted(self, answers: Sequence[Rolled]) -> tuple[list[Rolled], list[Rolled]]:
        """Answers to prompts that teach something, and the others."""
        level = self.crediting.level(Rollout.of(self.made, answers)).repeat_interleave(self.options.samples).tolist()
        useful = [answer for answer, same in zip(answers, level, strict=True) if not same]
        return useful, [answer for answer, same in zip(answers, level, strict=True) if same]

    def _computing(self, model: Any) -> AbstractContextManager[Any]:
        kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
        if self.autocast is None:
            return nullcontext()
        found: AbstractContextManager[Any] = torch.autocast(next(model.parameters()).device.type, kinds[self.autocast])
        return found

    def _read(self, model: Any, rollout: Rollout, reader: Reader) -> None:
        """Log-probabilities, entropy and values of the policy, and log-probabilities of the reference."""
        options, value = self.options, self.value
        rows = branched(rollout.answers)
        how: dict[str, Any] = {
            "temperature": options.temperature,
            "batch": options.batch,
            "autocast": self.autocast,
        }
        beside = value.head if value is not None and not value.apart else None
        found = reader(rollout) or score(model, rows, self.collate, value_head=beside, **how)
        rollout.policy, rollout.entropy, rollout.values = found.log_probs, found.entropy, found.values
        if value is not None and value.apart:
            with value.active():
                rollout.values = score(model, rows, self.collate, wanted=(), value_head=value.head, **how).values
        if self.reference is not None:
            with self.reference(model) as reference:
                rollout.reference = score(reference, rows, self.collate, wanted=("log_probs",), **how).log_probs

    def _require_reference(self, rollout: Rollout) -> None:
        """Before the first step the policy is its own reference. Raises RunError where it is not."""
        if rollout.policy is None or rollout.reference is None:
            return
        gap = float(sums((rollout.policy - rollout.reference).double(), rollout.tokens).abs().max())
        if gap > ROUNDING[self.coarse]:
            raise RunError(
                f"Before the first step policy and reference are {gap:.3g} nats apart on an answer, and both are the "
                "model that training starts from: computed twice, the same rows give other log-probabilities, so no KL "
                "can be trusted. Layers that draw random numbers in evaluation mode or "
                "kernels that are not deterministic do that; model.dtype=fp32 or model.attention=eager may help."
            )

    def _tell(self, rollout: Rollout) -> None:
        failed = [answer for answer in rollout.answers if answer.problem is not None]
        if failed:
            first = failed[0]
            log.warn(
                f"rollout {rollout.number}: {len(failed):,} of {len(rollout.answers):,} answers got no reward and are "
                f"left out; the first ({first.where}): {first.problem}"
            )
        self._unjudged = self._unjudged + 1 if len(failed) == len(rollout.answers) else 0
        if self._unjudged == UNJUDGED:
            raise NumericsError(
                f"Not one answer of the last {UNJUDGED} rollouts got a reward, so nothing is learned. The first of "
                f"rollout {rollout.number} ({failed[0].where}): {failed[0].problem} rlhf.on_error=stop would have "
                "shown the answer at once."
            )

    # --- on the disk -------------------------------------------------------------------------------------------------

    def save(self, directory: Path, *, in_hand: bool) -> None:
        """Into a checkpoint. ``in_hand``: whether steps of the present rollout are left."""
        state = {"made": self.made, "stream": self.stream.state_dict(), "crediting": self.crediting.state_dict()}
        if in_hand and self.hand is not None:
            state["counted"] = self.hand.counted
            self.hand.rollout.save(directory / ROLLOUT)
        (directory / STATE).write_text(json.dumps(state), encoding="utf-8")

    def load(self, directory: Path) -> None:
        """What `save` wrote."""
        state = json.loads((directory / STATE).read_text(encoding="utf-8"))
        self.made = int(state["made"])
        self.stream.load_state_dict(state["stream"])
        self.crediting.load_state_dict(state["crediting"])
        self.hand = None
        if "counted" in state:
            self.hand = Hand(Rollout.load(directory / ROLLOUT), [int(place) for place in state["counted"]])


def texts_of(run: Path, options: RlhfOptions, seed: int) -> RolloutTexts:
    """Where a run keeps what its policy says, and how it was drawn."""
    sampling = {"seed": seed, **{name: getattr(options, name) for name in ("temperature", "top_p", "max_new_tokens")}}
    return RolloutTexts(run / FILE, every=options.save_rollouts, sampling=sampling)


def _require_numbers(rollout: Rollout) -> None:
    """Raises NumericsError where a log-probability or a value is no finite number: then no step could be trusted."""
    vectors: dict[str, Tensor | None] = {
        "log-probability of the policy": rollout.policy,
        "log-probability of the reference": rollout.reference,
        "value": rollout.values,
    }
    for name, vector in vectors.items():
        if vector is None or bool(torch.isfinite(vector).all()):
            continue
        at = int((~torch.isfinite(vector)).nonzero()[0])
        answer = rollout.answers[int((rollout.tokens.cumsum(0) <= at).sum())]
        raise NumericsError(
            f"In rollout {rollout.number} a {name} is {float(vector[at])} ({answer.where}). A lower "
            "optimizer.learning_rate or model.dtype=fp32 helps most often; earlier checkpoints are intact."
        )
