"""The rlhf stage: a policy learns from rewards of its own answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from alignkit.console import log
from alignkit.data.batching import Collator, RowOrder
from alignkit.data.branching import of_layout
from alignkit.data.rows import Encoded
from alignkit.errors import Fault, RequestError
from alignkit.evaluation.policy import PolicyScores
from alignkit.evaluation.sampling import pad_id
from alignkit.evaluation.scores import headline
from alignkit.evaluation.stopping import stop_tokens
from alignkit.models.loading import Loaded
from alignkit.models.sources import context_length
from alignkit.rewards.mixture import Rewards
from alignkit.rewards.recipe import RewardSource
from alignkit.runs.directory import RunDirectory
from alignkit.runs.outcome import Outcome
from alignkit.stages.dpo.reference.identity import about_reference, key_of
from alignkit.stages.dpo.reference.passes import Pass
from alignkit.stages.dpo.sharing import choose_layout
from alignkit.stages.rlhf.crediting import Crediting
from alignkit.stages.rlhf.evaluation import Examination
from alignkit.stages.rlhf.figures import facts
from alignkit.stages.rlhf.making import RolloutMaker, texts_of
from alignkit.stages.rlhf.prompts import PreparedPolicy, PromptStream, as_texts, prepare, require_fitting, stand_ins
from alignkit.stages.rlhf.recipe import Recipe
from alignkit.stages.rlhf.recipe_algorithms import settle
from alignkit.stages.rlhf.reference import PolicyReference
from alignkit.stages.rlhf.value_function import ValueFunction
from alignkit.stages.rlhf.watch import PolicyWatch
from alignkit.training import results
from alignkit.training.loop import TrainerParts
from alignkit.training.rows import TrainingRows
from alignkit.training.stage import GradientStage
from alignkit.training.trainer import GuardedTrainer

ADAPTER_RATE = 5e-6
"""Below it a learning rate is taken for one that a paper recommends for all weights."""


class Steps(RowOrder):
    """The steps of a run, one after the other."""

    def order(self) -> Any:
        return np.arange(len(self))


class RlhfStage(GradientStage):
    """RLHF of the whole model or of an adapter."""

    recipe: Recipe
    examination: Examination
    rewards: Rewards | None = None
    true: Rewards | None = None
    value: ValueFunction | None = None
    policy: Any = None
    """The model that is being looked at."""
    tokens_at_once = MappingProxyType({"cpu": 2048})

    def __init__(self, recipe: Recipe, run: RunDirectory) -> None:
        super().__init__(recipe, run)
        self.options, self.settled = recipe.rlhf, settle(recipe.rlhf)
        limit = context_length(self.source)
        self.room = None if limit is None else limit - self.options.max_new_tokens
        if self.room is not None and self.room < recipe.data.max_length:
            recipe.data.max_length = self.room
            log.say(f"prompts of at most {recipe.data.max_length} tokens: the model reads {limit}, answers included")
        self.reference = PolicyReference(recipe, load_base=self._load)
        self.watch = PolicyWatch(run, recipe.rlhf)

    # --- rows ----------------------------------------------------------------------------------------------------

    def prepare(self, tokenizer: Any) -> PreparedPolicy:
        rate = self.recipe.optimizer.learning_rate
        if self.recipe.adapter.kind != "none" and rate < ADAPTER_RATE:
            log.warn(
                f"optimizer.learning_rate={rate:g} is one for all weights; an adapter hardly moves at it, and "
                "wants ten to a hundred times as much (optimizer.learning_rate=1e-4)"
            )
        prepared = prepare(self.recipe.data, tokenizer, held_out_rows=self.held_out_rows, room=self.room)
        require_fitting(self.options, prepared)
        if not self.options.true_reward:
            log.say("the true metric is the optimized reward itself (rlhf.true_reward names another)")
        return prepared

    @property
    def held_out_rows(self) -> int | None:
        # Which prompts decide on the best weights must not depend on how many are evaluated.
        return None if self.options.stop.every is not None else super().held_out_rows

    def layout(self, loaded: Loaded, prepared: Any) -> str:
        rows = stand_ins(prepared.train)
        packing = bool(self.recipe.data.packing)
        longest = self.longest(prepared, "apart")
        return choose_layout(loaded.model, rows, attention=loaded.attention, packing=packing, longest=longest)

    def longest(self, prepared: Any, layout: str) -> int:
        return int(prepared.lengths.max()) + self.options.max_new_tokens

    def collator(self, layout: str, tokenizer: Any) -> Collator:
        return lambda steps: {"steps": list(steps)}

    def rows(self, prepared: Any, micro: int) -> TrainingRows:
        steps = self.steps(prepared)
        return TrainingRows(range(steps), lengths=np.ones(steps, np.int32))

    def order(self, rows: TrainingRows) -> RowOrder:
        return Steps(rows.lengths, seed=self.recipe.seed, batch=1)

    def sample(self, prepared: Any) -> Any:
        from datasets import Dataset

        return Dataset.from_dict({"prompt": ["a"]})

    def steps(self, prepared: PreparedPolicy) -> int:
        """Optimizer steps of the run: those of all its rollouts."""
        schedule, options = self.recipe.schedule, self.options
        if schedule.max_steps is not None:
            return schedule.max_steps
        rollouts = math.ceil(len(prepared.train) * schedule.epochs / options.prompts)
        return rollouts * self.settled.epochs * (options.prompts * options.samples // self.recipe.batch.size)

    def demonstrations(self, prepared: Any) -> Sequence[Encoded]:
        return as_texts(prepared.held_out, results.DRIFT_ROWS)

    def calibration(self, prepared: Any, count: int) -> Sequence[Encoded]:
        return as_texts(prepared.train, count)

    # --- models ----------------------------------------------------------------------------------------------------

    def ready(self, loaded: Loaded, prepared: Any, resolved: dict[str, Any]) -> None:
        _require_end(loaded)
        if self.rewards is None:
            self.rewards = self._made(self.options.rewards, "rlhf.rewards", loaded)
            if self.options.true_reward:
                self.true = self._made(self.options.true_reward, "rlhf.true_reward", loaded)
        recipe, passing = self.recipe, self._passing(loaded, resolved)
        about = about_reference(
            recipe, loaded, self.source, layout=resolved["layout"], autocast=resolved["autocast"], named=None
        )
        self.examination = Examination(
            section=recipe.evaluation,
            stop=self.options.stop,
            max_new_tokens=self.options.max_new_tokens,
            seed=recipe.seed,
            tokenizer=loaded.tokenizer,
            held_out=prepared.held_out,
            rewards=self.rewards,
            true=self.true,
            reference=lambda: self.reference.as_model(self.policy),
            computing=passing.computing,
            watch=self.watch,
            start=key_of(about),
        )
        self.watch.stand(self.examination)

    def _made(self, sources: Sequence[RewardSource], where: str, loaded: Loaded) -> Rewards:
        training = self.run.read_mark("trained") is None
        # Code was allowed at the command line, or the journey would have refused the recipe before it came here.
        return Rewards.of(
            sources,
            allow_code=True,
            batch=self.options.reward_batch,
            skip=self.options.on_error == "skip",
            where=where,
            # A model that is read back after training has its adapter folded in: its base is another.
            beside=loaded if training and self.recipe.adapter.kind != "none" else None,
        )

    def _passing(self, loaded: Loaded, resolved: dict[str, Any]) -> Pass:
        lay = of_layout(resolved["layout"], pad_id(loaded.tokenizer))
        return Pass(lay, device=loaded.device, autocast=resolved["autocast"])

    # --- training ----------------------------------------------------------------------------------------------------

    def build_trainer(self, parts: TrainerParts) -> GuardedTrainer:
        from alignkit.stages.rlhf.building import build  # TRL loads for seconds, after the data was looked at
        from alignkit.stages.rlhf.trainer import Setting

        recipe, options, loaded = self.recipe, self.options, parts.loaded
        assert self.rewards is not None
        if self.settled.has_values:
            self.value = ValueFunction(loaded.model, options.value, recipe.adapter, seed=recipe.seed)
        prompts = parts.prepared.train
        collate = of_layout(parts.layout, pad_id(loaded.tokenizer))
        maker = RolloutMaker(
            options=options,
            prompts=prompts,  # type: ignore[arg-type]
            tokenizer=loaded.tokenizer,
            rewards=self.rewards,
            crediting=Crediting(options, self.settled),
            stream=PromptStream(len(prompts), recipe.seed),
            collate=collate,
            texts=texts_of(self.run.path, options, recipe.seed),
            seed=recipe.seed,
            reference=self.reference.as_model if self._measured else None,
            autocast=parts.autocast,
            coarse=parts.autocast is not None or loaded.dtype.itemsize == 2,
            value=self.value,
        )
        setting = Setting(
            options=options,
            settled=self.settled,
            maker=maker,
            collate=collate,
            micro=int((self.run.read_mark("resolved") or {})["micro"]),
            size=recipe.batch.size,
            seed=recipe.seed,
            value=self.value,
        )
        trainer = build(
            parts,
            setting,
            steps=self.steps(parts.prepared),  # type: ignore[arg-type]
            lora_dropout=recipe.adapter.dropout,
        )
        self.watch.trainer = trainer
        return trainer

    @property
    def _measured(self) -> bool:
        """Whether every rollout is read by the reference too. Where nothing is learned from it, its KL is a figure to
        watch, which is not worth a second model in memory."""
        asked = self.settled.reads_reference or self.options.stop.kl is not None
        return asked or self.recipe.adapter.kind != "none"

    def trained(self, loaded: Loaded) -> None:
        """The value function is kept aside: the result is a plain policy."""
        if self.value is not None:
            self.value.save(self.run.path / "value")
            self.value.release()
            self.value = None

    def callbacks(self, prepared: Any) -> list[Any]:
        if self.options.stop.every is not None:
            self.watch.look = self._look
        return [self.watch]

    def _look(self, model: Any, step: int) -> Any:
        self.policy = model
        return self.examination.look(model, step)

    def facts(self, logs: Mapping[str, Any]) -> list[str]:
        return facts(logs)

    def best_checkpoint(self) -> Any:
        return self.watch.best_checkpoint()

    def stopped_by(self) -> str | None:
        return self.watch.stopped_by()

    # --- scores ------------------------------------------------------------------------------------------------------

    def score(self, model: Any, tokenizer: Any, prepared: Any, when: str) -> dict[str, Any]:
        self.policy = model
        if when == "before":
            return self.examination.before(model).as_dict()
        return self.examination.after(model).as_dict()

    def watched(self, model: Any, tokenizer: Any, prepared: Any, rows: int | None) -> Mapping[str, float]:
        self.policy = model
        return self.examination.now(model, rows)

    def headline(self, before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any] | None:
        return headline(*(PolicyScores.from_dict(found) if found else None for found in (before, after)))

    def findings(self) -> dict[str, Any]:
        return self.watch.findings()


def _require_end(loaded: Loaded) -> None:
    """Raises RequestError for a policy that cannot end an answer."""
    if stop_tokens(loaded.model, loaded.tokenizer):
        return
    raise RequestError(
        Fault(
            where="model.name",
            what="neither the model nor its tokenizer or chat template names a token that ends an answer, so every "
            "answer would go on to rlhf.max_new_tokens",
            instead="Take a model with an eos token, or set eos_token in its tokenizer_config.json.",
        )
    )


def run(recipe: Recipe, run: RunDirectory) -> Outcome:
    """Run the stage in its directory; called by the journey."""
    return RlhfStage(recipe, run).execute()
