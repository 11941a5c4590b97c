"""Distillation through the command's own path: students learn from teachers, and every part does what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import alignkit
from alignkit.errors import RequestError
from tests.stages.runs import train, weights, words
from tests.teachers.fake_server import FakeServer, Scorer
from tests.tiny import save_tiny

STEPS = 24


def distill(student: Path, rows: Path, root: Path, recipe: str = "distill", **changes: Any) -> dict[str, Any]:
    values = {"schedule__max_steps": STEPS, "checkpoint__every": 50, "data__holdout": 3, "schedule__decay": "constant"}
    return train(recipe, student, rows, root, **{**values, **changes})


def figures(result: dict[str, Any], name: str) -> list[float]:
    lines = (Path(result["run"]) / "metrics.jsonl").read_text().splitlines()
    return [line[name] for line in map(json.loads, lines) if name in line]


def tensors(path: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(path.glob("*.safetensors")):
        found |= load_file(file)
    assert found
    return found


def differ(one: Path, other: Path) -> float:
    """The largest difference of two results' weights."""
    a, b = tensors(one), tensors(other)
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_a_student_comes_closer_to_its_teacher_and_the_table_has_everybody(
    student: Path, teacher: Path, rows: Path, tmp_path: Path
) -> None:
    changes = {"teacher": teacher, "evaluation__rows": 3, "evaluation__max_new_tokens": 6, "distill__baseline": True}
    done = distill(student, rows, tmp_path / "runs", **changes)
    divergence = figures(done, "divergence")
    assert divergence[-1] < 0.5 * divergence[0]
    metrics = done["metrics"]
    assert list(metrics["models"]) == ["teacher", "student before", "student after", "plain SFT"]
    losses = {name: one["scores"]["loss"] for name, one in metrics["models"].items()}
    assert losses["student after"] < losses["student before"]
    sizes = [one["cost"]["parameters"] for one in metrics["models"].values()]
    assert sizes[0] > sizes[1] == sizes[2] == sizes[3]
    assert all(one["cost"]["written_per_second"] > 0 for one in metrics["models"].values())
    assert metrics["distill"]["teacher"]["tokens_in_common"] == 259
    assert "plain SFT" in (Path(done["path"]) / "README.md").read_text()

    # The baseline is what recipe=sft gives with the same values: only the teacher makes the difference.
    plain = distill(student, rows, tmp_path / "sft", recipe="sft")
    assert weights({"path": Path(done["run"]) / "baseline" / "model"}) == weights(plain)
    assert losses["plain SFT"] != losses["student after"]
    again = distill(student, rows, tmp_path / "runs", **changes)
    assert again["reused"]


def test_a_cache_of_the_whole_vocabulary_teaches_what_the_live_teacher_does(
    student: Path, teacher: Path, rows: Path, tmp_path: Path
) -> None:
    kept = alignkit.train(
        "teacher-cache",
        [
            f"teacher={teacher}",
            f"data={rows}",
            f"run.root={tmp_path / 'cache'}",
            "data.holdout=3",
            "data.max_length=64",
            "cache.entries=all",
            "cache.bits=32",
            "cache.max_bytes=null",
            "teacher.dtype=fp32",
        ],
    )
    few = {"schedule__max_steps": 6, "distill__ce": 0.3, "distill__divergence": "jsd"}
    live = distill(student, rows, tmp_path / "runs", teacher=teacher, **few, distill__teacher__dtype="fp32")
    cached = distill(student, rows, tmp_path / "runs", distill__cache=kept["path"], **few)
    assert cached["run"] != live["run"]
    assert differ(Path(live["path"]), Path(cached["path"])) < 1e-5
    assert figures(live, "divergence") == pytest.approx(figures(cached, "divergence"), abs=1e-5)
    # It teaches something: without the divergence the student is another one.
    plain = distill(
        student, rows, tmp_path / "runs", teacher=teacher, schedule__max_steps=6, distill__weight=0, distill__ce=0.3
    )
    assert differ(Path(plain["path"]), Path(cached["path"])) > 1e-3


RESUMED = {
    "logits": {"adapter": "lora"},
    "on-policy": {"distill__mode": "on-policy", "distill__on_policy__max_new_tokens": 6},
    "hidden": {"distill__hidden__loss": "mse", "distill__temperature": 2},
}


@pytest.mark.parametrize("name", RESUMED)
def test_resuming_is_exact(
    name: str, student: Path, teacher: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alignkit.training.trainer import GuardedTrainer

    changes = {**RESUMED[name], "teacher": teacher, "checkpoint__every": 1, "schedule__max_steps": 4, "batch__micro": 2}
    whole = weights(distill(student, rows, tmp_path / "whole", **changes))
    untouched = GuardedTrainer._save_checkpoint

    class Killed(BaseException):
        pass

    def save_and_die(self: Any, model: Any, trial: Any) -> None:
        untouched(self, model, trial)
        if self.state.global_step == 2:
            raise Killed

    monkeypatch.setattr(GuardedTrainer, "_save_checkpoint", save_and_die)
    with pytest.raises(Killed):
        distill(student, rows, tmp_path / "killed", **changes)
    monkeypatch.setattr(GuardedTrainer, "_save_checkpoint", untouched)
    torch.manual_seed(99)
    done = distill(student, rows, tmp_path / "killed", **changes)
    assert done["metrics"]["training"]["resumed_from_step"] == 2
    assert weights(done) == whole


def test_on_policy_rows_are_the_students_and_do_not_depend_on_the_micro_batch(
    student: Path, teacher: Path, rows: Path, tmp_path: Path
) -> None:
    values = {"teacher": teacher, "schedule__max_steps": 5, "distill__on_policy__max_new_tokens": 6}
    wide = distill(student, rows, tmp_path / "a", recipe="gkd", batch__micro=4, distill__on_policy__share=1, **values)
    narrow = distill(student, rows, tmp_path / "b", recipe="gkd", batch__micro=1, distill__on_policy__share=1, **values)
    assert figures(wide, "on_policy") == [1.0] * 5
    assert all(0 < tokens <= 6 for tokens in figures(wide, "answer_tokens"))
    assert differ(Path(wide["path"]), Path(narrow["path"])) < 1e-5
    some = distill(student, rows, tmp_path / "c", recipe="gkd", distill__on_policy__share=0.5, **values)
    assert 0 < sum(figures(some, "on_policy")) < 5
    assert differ(Path(wide["path"]), Path(some["path"])) > 1e-4


def test_sequence_level_is_fine_tuning_on_the_teachers_answers(
    student: Path, teacher: Path, rows: Path, tmp_path: Path
) -> None:
    done = distill(
        student, rows, tmp_path / "runs", recipe="sequence-kd", teacher=teacher, distill__answers__max_new_tokens=12,
        schedule__max_steps=6,
    )  # fmt: skip
    file = Path(done["run"]) / "answers.jsonl"
    written = [json.loads(line)["messages"] for line in file.read_text().splitlines()]
    assert (
        written and sum(answer["content"] == asked["content"].upper() for asked, answer in written) > len(written) / 2
    )
    plain = train(
        "sft", student, file, tmp_path / "sft", data__holdout=0, checkpoint__every=50, schedule__decay="constant"
    )
    assert differ(Path(done["path"]), Path(plain["path"])) < 1e-6


def test_several_teachers_are_averaged(student: Path, teacher: Path, rows: Path, tmp_path: Path) -> None:
    few = {"schedule__max_steps": 4, "teacher": teacher}
    alone = distill(student, rows, tmp_path / "runs", **few)
    twice = distill(student, rows, tmp_path / "runs", **few, distill__teachers=f"[{{name: {teacher}, weight: 3}}]")
    assert differ(Path(alone["path"]), Path(twice["path"])) < 1e-5
    mixed = distill(student, rows, tmp_path / "runs", **few, distill__teachers=f"[{{name: {student}}}]")
    # Half of what it is taught is what it says already.
    assert figures(mixed, "divergence")[0] < 0.8 * figures(alone, "divergence")[0]


def test_a_corrected_teacher_is_the_one_that_teaches(student: Path, teacher: Path, rows: Path, tmp_path: Path) -> None:
    few = {"schedule__max_steps": 4}
    steps = {"distill__correct_teacher__steps": 3, "distill__correct_teacher__learning_rate": "1e-2"}
    done = distill(student, rows, tmp_path / "runs", teacher=teacher, **few, **steps)
    corrected = Path(done["run"]) / "teacher" / "model"
    assert differ(corrected, teacher) > 1e-3
    by_hand = distill(student, rows, tmp_path / "runs", teacher=corrected, **few)
    assert differ(Path(done["path"]), Path(by_hand["path"])) < 1e-6


def test_a_student_is_made_of_its_teacher(teacher: Path, rows: Path, tmp_path: Path) -> None:
    given = words(teacher, rows, tmp_path / "runs", data__holdout=3, schedule__max_steps=3)
    values = [word for word in given if not word.startswith(("model=", "model."))]
    done = alignkit.train("distilbert", [*values, f"teacher={teacher}", "evaluation.rows=2"])
    made = Path(done["run"]) / "student"
    config = json.loads((made / "config.json").read_text())
    assert config["num_hidden_layers"] == 2
    before = tensors(made)
    source = tensors(teacher)
    record = done["metrics"]["distill"]["student"]
    first = f"model.layers.{record['layers'][0]}.mlp.up_proj.weight"
    assert torch.equal(before["model.layers.0.mlp.up_proj.weight"], source[first])
    assert differ(made, Path(done["path"])) > 0
    assert figures(done, "hidden") and figures(done, "nll")


def test_a_server_teaches_what_the_model_behind_it_says(
    student: Path, teacher: Path, rows: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    few = {"schedule__max_steps": 3}
    live = distill(student, rows, tmp_path / "runs", teacher=teacher, **few, distill__teacher__dtype="fp32")
    with FakeServer(Scorer(model, AutoTokenizer.from_pretrained(teacher))) as server:
        where = {"distill__server__url": server.url, "distill__server__model": "any"}
        served = distill(student, rows, tmp_path / "runs", **few, **where, distill__server__top_logprobs=259)
    assert differ(Path(live["path"]), Path(served["path"])) < 1e-4
    silent = FakeServer(lambda path, body: (200, {"choices": [{"text": "hello"}]}))
    with silent, pytest.raises(RequestError, match="answers without log-probabilities"):
        distill(student, rows, tmp_path / "none", distill__server__url=silent.url, distill__server__model="any")


def test_a_quantized_teacher(student: Path, rows: Path, tmp_path: Path) -> None:
    """In 4 bits it says nearly what it says whole, and not quite."""
    shape = {"hidden_size": 128, "intermediate_size": 256, "initializer_range": 0.1}
    wide = save_tiny(tmp_path / "wide", layers=3, seed=1, **shape)
    few = {"schedule__max_steps": 2, "teacher": wide, "distill__teacher__dtype": "fp32"}
    whole = distill(student, rows, tmp_path / "runs", **few)
    small = distill(student, rows, tmp_path / "runs", **few, distill__teacher__quantization__kind="nf4")
    assert differ(Path(whole["path"]), Path(small["path"])) > 1e-6
    assert figures(small, "divergence")[0] == pytest.approx(figures(whole, "divergence")[0], rel=0.1)


def test_the_routers_loss_of_a_mixture_is_added_with_its_coefficient(teacher: Path, rows: Path, tmp_path: Path) -> None:
    """Each micro-batch counts by its share of the step's tokens."""
    experts = save_tiny(tmp_path / "experts", "mixtral", num_local_experts=4, num_experts_per_tok=2)
    told = []
    for coefficient in ("0", "null", "10.0"):
        few = {"teacher": teacher, "schedule__max_steps": 1, "batch__micro": 2, "batch__size": 4}
        words = {**few, "trl.router_aux_loss_coef": coefficient}
        done = distill(experts, rows, tmp_path / f"at {coefficient}", **words)
        told.append({name: figures(done, name) for name in ("loss", "router_loss")})
    without, own, ten = told
    assert not without["router_loss"]
    [balance] = own["router_loss"]
    assert 1.9 < balance < 4 and ten["router_loss"] == [pytest.approx(balance)]
    assert own["loss"][0] - without["loss"][0] == pytest.approx(0.001 * balance, abs=1e-5)
    assert ten["loss"][0] - without["loss"][0] == pytest.approx(10 * balance, rel=1e-4)
