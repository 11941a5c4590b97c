"""What cannot work is said in a sentence before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import alignkit
from alignkit.errors import RequestError
from alignkit.journey import check
from tests.stages.distill.conftest import write_rows
from tests.stages.distill.test_run import distill
from tests.tiny import save_tiny


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher": None}, "distill.teacher.name.*is required"),
        ({"distill__weight": 0}, "nothing is learned"),
        ({"distill__beta": 0.1}, r"distill.beta.*belongs to jsd, and the divergence is forward-kl"),
        ({"distill__skew": 0.3, "distill__divergence": "jsd"}, "belongs to skewed-kl and skewed-reverse-kl"),
        ({"distill__cache": "nowhere"}, "there is no finished teacher cache in nowhere"),
        ({"distill__mode": "on-policy", "distill__ce": 1}, "the student's own answers are none"),
        ({"distill__mode": "on-policy", "data__packing": "best-fit"}, "the student's answers have none yet"),
        ({"distill__mode": "sequence", "distill__temperature": 2}, "mode=sequence learns from texts"),
        ({"distill__tokenizers": "uld", "distill__divergence": "jsd"}, "uld is a distance of its own"),
        ({"distill__tokenizers": "uld", "distill__hidden__loss": "mse"}, "the tokenizers differ"),
        ({"distill__student__kind": "layers", "distill__student__layers": 1}, "model names another student"),
        ({"distill__mode": "step-by-step", "distill__steps__instruction": "why?"}, "does not hold {answer}"),
        ({"distill__hidden__loss": "mse", "distill__hidden__layers": "{9: 1}"}, "maps layer 9 to 1"),
        ({"distill__hidden__loss": "mse", "distill__hidden__projection": False}, "has 32 channels and the teacher 48"),
    ],
)
def test_values_that_cannot_work(
    changes: dict[str, Any], said: str, student: Path, teacher: Path, rows: Path, tmp_path: Path
) -> None:
    values = {"teacher": teacher, "schedule__max_steps": 1, **changes}
    with pytest.raises(RequestError, match=said):
        distill(student, rows, tmp_path / "runs", **{k: v for k, v in values.items() if v is not None})


def test_another_vocabulary_is_told_before_any_weight_is_read(
    student: Path, other_teacher: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import alignkit.models.loading

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was read")

    monkeypatch.setattr(alignkit.models.loading, "_load_model", refuse)
    with pytest.raises(
        RequestError, match=r"its vocabulary is not the student's: token 0 is .*tokenizers=uld or spans"
    ):
        distill(student, rows, tmp_path / "runs", teacher=other_teacher)


def test_a_padded_vocabulary_is_no_other_one(student: Path, rows: Path, tmp_path: Path) -> None:
    """The same tokens, and 13 rows more in the teacher's tables, which no token uses."""
    padded = save_tiny(tmp_path / "padded", vocab=272, layers=3)
    done = distill(student, rows, tmp_path / "runs", teacher=padded, schedule__max_steps=2)
    assert done["metrics"]["distill"]["teacher"]["tokens_in_common"] == 259


def test_a_smaller_teacher_is_warned_of(
    student: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = save_tiny(tmp_path / "small", layers=1)
    distill(student, rows, tmp_path / "runs", teacher=small, schedule__max_steps=1)
    assert "the teacher is smaller than the student" in capsys.readouterr().err


def test_a_cache_for_other_rows_says_what_differs(student: Path, teacher: Path, rows: Path, tmp_path: Path) -> None:
    words = [f"teacher={teacher}", f"data={rows}", f"run.root={tmp_path / 'cache'}", "data.holdout=3"]
    kept = alignkit.train("teacher-cache", [*words, "data.max_length=64", "cache.temperature=2"])["path"]
    with pytest.raises(RequestError, match="is 1, and the cache was written at 2"):
        distill(student, rows, tmp_path / "runs", distill__cache=kept)
    hot = {"distill__cache": kept, "distill__temperature": 2, "schedule__max_steps": 1}
    with pytest.raises(RequestError, match=r"data.train_on \(\"assistant\", here \"all\"\)"):
        distill(student, rows, tmp_path / "runs", **hot, data__train_on="all")
    other = write_rows(tmp_path / "other.jsonl")
    other.write_text(other.read_text().replace("BADE", "bade"))
    with pytest.raises(RequestError, match=r"rows are not in .*what differs: the contents of the data"):
        distill(student, other, tmp_path / "runs", **hot)
    plain = save_tiny(
        tmp_path / "plain", template="{% for m in messages %}{{ m['content'] + '<|im_end|>' }}{% endfor %}"
    )
    with pytest.raises(RequestError, match="the chat template"):
        distill(plain, rows, tmp_path / "runs", **hot)
    assert distill(student, rows, tmp_path / "runs", **hot)["metrics"]["training"]["steps"] == 1


def test_a_cache_of_another_teacher_than_the_named_one(
    student: Path, teacher: Path, rows: Path, tmp_path: Path
) -> None:
    words = [f"teacher={teacher}", f"data={rows}", f"run.root={tmp_path / 'cache'}", "data.holdout=3"]
    kept = alignkit.train("teacher-cache", [*words, "data.max_length=64"])["path"]
    few = {"distill__cache": kept, "schedule__max_steps": 1}
    with pytest.raises(RequestError, match=rf"was written by .*{teacher.name}.*, and {student} is not the same"):
        distill(student, rows, tmp_path / "runs", teacher=student, **few)
    assert distill(student, rows, tmp_path / "runs", teacher=teacher, **few)["metrics"]["training"]["steps"] == 1


def test_what_a_cache_does_not_hold_is_told_by_check(rows: Path, teacher: Path, tmp_path: Path) -> None:
    words = [f"teacher={teacher}", f"data={rows}", f"run.root={tmp_path / 'cache'}", "data.holdout=3"]
    kept = alignkit.train("teacher-cache-sampled", [*words, "data.max_length=64", "cache.temperature=2"])["path"]
    asked = [f"model={teacher}", f"data={rows}", f"distill.cache={kept}"]
    told = " ".join(map(str, check("distill", [*asked, "distill.divergence=tv"])[1]))
    assert "is 1, and the cache was written at 2" in told and "unbiased for forward-kl and not for tv" in told
    assert not check("distill", [*asked, "distill.temperature=2"])[1]


def test_a_missing_teacher_is_told_beside_what_else_is_missing() -> None:
    told = [str(fault) for fault in check("distilbert", [])[1]]
    assert any("distill.teacher.name: is required" in one and "made from it" in one for one in told)
    assert any("distill.teacher.name: is required" in str(fault) for fault in check("distill", [])[1])
