"""Teachers with another tokenizer: sorted probabilities, and spans of one text."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stages.distill.test_run import differ, distill, figures


@pytest.mark.parametrize("kind", ["uld", "spans"])
def test_a_teacher_of_other_tokens_teaches(
    kind: str, student: Path, other_teacher: Path, rows: Path, tmp_path: Path
) -> None:
    values = {"teacher": other_teacher, "distill__tokenizers": kind, "schedule__max_steps": 30}
    done = distill(student, rows, tmp_path / "runs", **values, evaluation__rows=3, evaluation__max_new_tokens=6)
    divergence = figures(done, "divergence")
    assert divergence[-1] < 0.7 * divergence[0]
    models = done["metrics"]["models"]
    if kind == "spans":  # what it says is learned, and not only how sure it is
        assert sum(figures(done, "spans")) > 0
        assert models["student after"]["scores"]["loss"] < models["student before"]["scores"]["loss"]
    # The teacher was asked in its own tokens: it knows the answers.
    assert models["teacher"]["scores"]["loss"] < models["student before"]["scores"]["loss"]


def test_cross_entropy_beside_it_is_of_every_token(
    student: Path, other_teacher: Path, rows: Path, tmp_path: Path
) -> None:
    """With a divergence that weighs next to nothing it is plain fine-tuning."""
    few = {"schedule__max_steps": 5}
    changes = {"teacher": other_teacher, "distill__tokenizers": "uld", "distill__weight": "1e-9", "distill__ce": 1}
    crossed = distill(student, rows, tmp_path / "runs", **changes, **few)
    plain = distill(student, rows, tmp_path / "runs", recipe="sft", **few)
    assert differ(Path(crossed["path"]), Path(plain["path"])) < 1e-4


def test_answers_of_the_student_are_read_in_the_teachers_tokens(
    teacher: Path, other_teacher: Path, rows: Path, tmp_path: Path
) -> None:
    """The student writes words here (bytes that are no text end what can be compared)."""
    values = {"teacher": other_teacher, "distill__tokenizers": "spans", "schedule__max_steps": 3, "recipe": "gkd"}
    own = {"distill__on_policy__share": 1, "distill__on_policy__max_new_tokens": 8, "optimizer__learning_rate": "1e-4"}
    done = distill(teacher, rows, tmp_path / "runs", **values, **own)
    assert figures(done, "on_policy") == [1.0] * 3
    assert all(value > 0 for value in figures(done, "divergence"))
