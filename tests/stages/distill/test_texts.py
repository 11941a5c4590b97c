"""Step by step: two tasks of one student, balanced over a step; and rationales from the data or the teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignkit.errors import RequestError
from alignkit.stages.distill.rollouts import answer_start
from alignkit.stages.distill.steps import balance
from tests.stages.distill.conftest import WORDS, write_rows
from tests.stages.distill.test_run import differ, distill, figures


@given(st.integers(0, 2**31), st.floats(0.05, 0.95), st.integers(1, 3), st.booleans())
def test_a_steps_loss_is_the_weighted_sum_of_two_means(seed: int, alpha: float, count: int, weighted: bool) -> None:
    """Against numpy: alpha · mean over label tokens + (1 - alpha) · mean over rationale tokens, of a whole step."""
    rng = np.random.default_rng(seed)
    batches: list[dict[str, Any]] = []
    losses, expected = [], [[], []]
    for _ in range(count):
        labels = rng.integers(0, 9, (2, 7))
        labels[rng.random((2, 7)) < 0.4] = -100
        labels[:, 3] = 5  # some of each task
        own = rng.uniform(0.5, 2, (2, 7)) * (labels != -100) if weighted else np.ones((2, 7))
        batch: dict[str, Any] = {
            "labels": torch.tensor(labels),
            "rationale": torch.tensor([[False], [True]]).expand(2, 7),
        }
        if weighted:
            batch["loss_weights"] = torch.tensor(own, dtype=torch.float64)
        loss = rng.uniform(0, 3, (2, 7))
        for task in (0, 1):
            for at in range(1, 7):
                if labels[task, at] != -100:
                    expected[task].append((own[task, at], loss[task, at]))
        losses.append(loss)
        batches.append(batch)
    balance(batches, alpha)
    found = 0.0
    for batch, loss in zip(batches, losses, strict=True):
        assert "rationale" not in batch
        used = (batch["labels"] != -100).numpy()
        used[:, 0] = False
        found += float((batch["loss_weights"].numpy() * loss * used).sum())
    means = [sum(w * x for w, x in task) / sum(w for w, _ in task) for task in expected]
    assert found == pytest.approx(alpha * means[0] + (1 - alpha) * means[1], rel=1e-5)


@pytest.mark.parametrize(
    ("labels", "start"),
    [([-100, -100, 5, 6], 2), ([-100, 4, -100, 5, 6, -100], 3), ([-100, -100], 0), ([5, 6], 0)],
)
def test_an_answer_begins_at_the_last_run_of_labels(labels: list[int], start: int) -> None:
    assert answer_start(labels) == start


def test_rationales_of_the_data_are_a_task_of_their_own(student: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", rationale="{word} in capitals")
    few = {"recipe": "step-by-step", "schedule__max_steps": 12}
    done = distill(student, data, tmp_path / "runs", **few, evaluation__rows=3, evaluation__max_new_tokens=4)
    rows = [json.loads(line)["messages"] for line in (Path(done["run"]) / "steps.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * (len(WORDS) - 3)
    for label, why in zip(rows[::2], rows[1::2], strict=True):
        word = label[0]["content"].removeprefix("[label] ")
        assert label[1]["content"] == word.upper()
        assert why == [
            {"role": "user", "content": f"[rationale] {word}"},
            {"role": "assistant", "content": f"{word} in capitals"},
        ]
    assert done["metrics"]["after"]["answers"][0]["prompt"].startswith("[label] ")
    loss = figures(done, "loss")
    assert loss[-1] < 0.6 * loss[0]
    labels_only = distill(student, data, tmp_path / "runs", **few, distill__steps__alpha=0.95)
    assert differ(Path(done["path"]), Path(labels_only["path"])) > 1e-3


def test_a_teacher_writes_the_rationales_that_the_data_lacks(
    student: Path, teacher: Path, rows: Path, tmp_path: Path
) -> None:
    done = distill(
        student, rows, tmp_path / "runs", recipe="step-by-step", teacher=teacher, schedule__max_steps=2,
        data__max_length=256, distill__steps__max_new_tokens=60, distill__steps__instruction="{answer}",
        distill__steps__temperature=1.0,
    )  # fmt: skip
    drawn = [json.loads(line) for line in (Path(done["run"]) / "rationales.jsonl").read_text().splitlines()]
    assert len(drawn) == len(WORDS) - 3
    written = {one["answers"][0]["text"] for one in drawn if one["answers"][0]["finished"]}
    lines = (Path(done["run"]) / "steps.jsonl").read_text().splitlines()
    assert {json.loads(line)["messages"][1]["content"] for line in lines[1::2]} <= written


def test_a_row_without_its_rationale_is_named(student: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", rationale="{word}, of course")
    lines = data.read_text().splitlines()
    broken = json.loads(lines[4]) | {"rationale": ""}
    data.write_text("\n".join([*lines[:4], json.dumps(broken), *lines[5:]]) + "\n")
    with pytest.raises(RequestError, match=r"rows.jsonl line 5: has no `rationale`, and other rows have one"):
        distill(student, data, tmp_path / "runs", recipe="step-by-step", data__holdout=0)
    with pytest.raises(RequestError, match="no column `reasons`, and no teacher is named"):
        distill(student, data, tmp_path / "runs", recipe="step-by-step", distill__steps__rationale="reasons")
