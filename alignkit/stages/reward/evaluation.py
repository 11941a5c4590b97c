"""Held-out rows before and after training: rewards of their answers, and what these say."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from alignkit.console import log
from alignkit.data.branches import Branched
from alignkit.data.branching import Collator
from alignkit.evaluation import reward_figures
from alignkit.evaluation.calibration import draw_reliability, reliability_text
from alignkit.evaluation.rewarded import RewardScores
from alignkit.runs.directory import RunDirectory
from alignkit.stages.reward.objective import Objective
from alignkit.stages.reward.ranked import ranked_answers, rewards_of_ranked
from alignkit.stages.reward.recipe import Recipe
from alignkit.stages.reward.scoring import score_rows

PLOT, PLOT_TEXT = "reliability.png", "reliability.txt"


class Examination:
    """Scores one model after the other on the same rows. ``collate`` is set once the layout is known."""

    collate: Collator

    def __init__(self, recipe: Recipe, run: RunDirectory, objective: Objective, tokenizer: Any) -> None:
        self.recipe, self.run, self.objective, self.tokenizer = recipe, run, objective, tokenizer

    def scores(self, model: Any, held_out: Sequence[Branched], *, when: str, began: float) -> RewardScores:
        """All that is found out about a model; ``when``: before or after training."""
        section = self.recipe.evaluation
        rows = held_out[: section.rows]
        rewards = score_rows(model, rows, self.collate, batch=section.batch)
        found = self._figures(rewards, rows)
        found["loss"] = self.loss(rewards, rows)
        if section.best_of is not None:
            found["best_of"] = self._best_of(model)
        scores = RewardScores(**found, seconds=time.monotonic() - began)
        if when == "before":
            return scores
        self._plot(scores)
        warned = reward_figures.warnings(scores)
        for sentence in warned:
            log.warn(sentence)
        return RewardScores(**{**_fields(scores), "warnings": warned})

    def watched(self, model: Any, rows: Sequence[Branched]) -> Mapping[str, float]:
        """Loss and accuracy while training goes on."""
        rewards = score_rows(model, rows, self.collate, batch=self.recipe.evaluation.batch)
        found = {"loss": self.loss(rewards, rows)}
        accuracy = self._figures(rewards, rows).get("accuracy")
        return found if accuracy is None else {**found, "accuracy": accuracy}

    def loss(self, rewards: Any, rows: Sequence[Branched]) -> float:
        """The stage's loss, a row."""
        batch: dict[str, Any] = {}
        if self.objective.options.margin:
            batch["margins"] = torch.tensor([row.margin if row.margin is not None else 0.0 for row in rows])
        if self.objective.options.learn == "scores":
            batch["scores"] = torch.tensor([row.score for row in rows])
        if self.objective.options.learn == "labels":
            batch["desirable"] = torch.tensor([bool(row.desirable) for row in rows])
        return float(self.objective.losses(torch.from_numpy(rewards.reshape(-1)), batch).mean())

    def _figures(self, rewards: Any, rows: Sequence[Branched]) -> dict[str, Any]:
        lengths = np.array([[branch.tokens for branch in row.branches] for row in rows], np.float64)
        learn = self.objective.options.learn
        if learn == "pairs":
            groups = [row.group for row in rows]
            return reward_figures.of_pairs(rewards[:, 0], rewards[:, 1], lengths[:, 0], lengths[:, 1], groups)
        if learn == "labels":
            wanted = np.array([bool(row.desirable) for row in rows])
            return reward_figures.of_labels(rewards[:, 0], wanted, lengths[:, 0])
        scores = np.array([row.score for row in rows], np.float64)
        predicted = rewards[:, 0] * self.objective.deviation + self.objective.mean
        return reward_figures.of_scores(rewards[:, 0], scores, lengths[:, 0], predicted=predicted)

    def _best_of(self, model: Any) -> Any:
        section = self.recipe.evaluation
        assert section.best_of is not None
        ranked = ranked_answers(section.best_of, rows=section.best_of_rows, where="evaluation.best_of")
        rewards = rewards_of_ranked(model, self.tokenizer, ranked, batch=section.batch)
        return reward_figures.best_of(rewards, [np.asarray(one.scores) for one in ranked])

    def _plot(self, scores: RewardScores) -> None:
        """How sure and how right: in the terminal, and in the run directory as a picture, or as the text."""
        if not scores.reliability:
            return
        lines = reliability_text(scores.reliability)
        for line in lines:
            log.say(line)
        title = f"calibration error {scores.calibration_error:.1%}"
        if not draw_reliability(scores.reliability, self.run.path / PLOT, title):
            self.run.write(PLOT_TEXT, "\n".join(lines) + "\n")


def _fields(scores: RewardScores) -> dict[str, Any]:
    return {name: getattr(scores, name) for name in RewardScores.__dataclass_fields__ if name != "headlines"}
